"""GPT-2's pre-tokenizer: the pattern, bytes and text, special tokens, and the documents of a corpus file.

Any bytes are a text: they are decoded as UTF-8, and each byte outside well-formed UTF-8 becomes one character (Python's
`surrogateescape`), which the pattern counts as punctuation. `encode_utf8` restores the same bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.files import open_text
from lmpipe.io.validation import short_repr
from lmpipe.study.corpora import END_OF_TEXT

# GPT-2 (Radford et al. 2019, encoder.py of the release): contractions, words, numbers, other characters, white space.
# lmpipe.kernels.bpe.pretokenizer_kernels finds the same pre-tokens.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

BLOCK_BYTES = 1 << 20  # read at a time
MAX_DOCUMENT_BYTES = 1 << 22


def encode_utf8(text: str) -> bytes:
    r"""Encode a text as UTF-8; characters U+DC80 to U+DCFF become the single bytes that they represent.

    Other lone surrogates, which no decoded file contains, become the three bytes of their UTF-8 pattern. Raises
    InputError for anything but a str.

    >>> encode_utf8("é\udcff")
    b'\xc3\xa9\xff'
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except AttributeError:
        raise InputError("text", f"is {short_repr(text)}", "pass a str") from None
    except UnicodeEncodeError:
        rules = ("surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass" for character in text)
        return b"".join(character.encode("utf-8", rule) for character, rule in zip(text, rules, strict=True))


def decode_utf8(data: bytes) -> str:
    r"""Decode any bytes, as described at the top of this module.

    >>> decode_utf8(bytes([0x61, 0xFF]))
    'a\udcff'
    """
    return data.decode("utf-8", "surrogateescape")


def special_bytes(special_tokens: Sequence[str]) -> list[bytes]:
    """Encode special tokens as UTF-8, without repetitions.

    Raises InputError for anything but a list of strings, an empty token, or characters that UTF-8 cannot encode.
    """
    if isinstance(special_tokens, str):
        raise InputError("special_tokens", f"is the string {special_tokens!r}", f"pass a list: [{special_tokens!r}]")
    if not isinstance(special_tokens, Collection) or not all(isinstance(token, str) for token in special_tokens):
        raise InputError("special_tokens", f"is {short_repr(special_tokens)}", "pass a list of str")
    if "" in special_tokens:
        raise InputError("special_tokens", "contains an empty token", "remove it")
    try:
        return [token.encode() for token in dict.fromkeys(special_tokens)]
    except UnicodeEncodeError as error:
        problem = f"contains {error.object!r}, which UTF-8 cannot encode"
        raise InputError("special_tokens", problem, "choose another text") from None


def documents(path: str | Path) -> Iterator[bytes]:
    """Yield the documents of a corpus file in order: the bytes between delimiters, without blank ones.

    A document of more than MAX_DOCUMENT_BYTES bytes, such as a file without delimiters, is split before
    white space, so memory is constant.
    """
    delimiter = END_OF_TEXT.encode()
    rest = b""
    with open_text(path) as file:
        while block := file.read(BLOCK_BYTES):
            *complete, rest = (rest + block).split(delimiter)
            if len(rest) > MAX_DOCUMENT_BYTES:
                piece, rest = split_before_space(rest)
                complete.append(piece)
            yield from (document for document in complete if document.strip())
    if rest.strip():
        yield rest


def split_before_space(text: bytes) -> tuple[bytes, bytes]:
    """Split a text before its last spaces or line ends, or in the middle if it has none.

    >>> split_before_space(b"one two  three")
    (b'one two', b'  three')
    """
    space = max(text.rfind(b" "), text.rfind(b"\n"), 0)
    offset = len(text[:space].rstrip()) or len(text) // 2
    return text[:offset], text[offset:]
