"""GPT-2's pre-tokens: the pattern, the bytes of a text, special tokens, and the documents of a corpus file.

Any bytes are text here, by one rule: they are read as UTF-8, and each byte that is no part of well-formed UTF-8 is one
character of its own (Python's `surrogateescape`), which the pattern counts as punctuation. `encode_utf8` gives the
same bytes back.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.files import open_text

END_OF_TEXT = "<|endoftext|>"
# GPT-2 (Radford et al. 2019, encoder.py of the release): contractions, words, numbers, other characters, white space.
# lmpipe.kernels.bpe.pretokenizer_kernels finds what it finds.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

BLOCK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 22


def encode_utf8(text: str) -> bytes:
    r"""The bytes of a text: UTF-8, characters U+DC80 to U+DCFF as the single bytes that they stand for.

    Other lone surrogates, which no decoded file holds, get the three bytes that UTF-8 would give them.

    >>> encode_utf8("é\udcff")
    b'\xc3\xa9\xff'
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        rules = ("surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass" for character in text)
        return b"".join(character.encode("utf-8", rule) for character, rule in zip(text, rules, strict=True))


def decode_utf8(data: bytes) -> str:
    r"""The text of any bytes, by this module's rule.

    >>> decode_utf8(bytes([0x61, 0xFF]))
    'a\udcff'
    """
    return data.decode("utf-8", "surrogateescape")


def special_bytes(special_tokens: Sequence[str]) -> list[bytes]:
    """Special tokens as UTF-8, each once; raises InputError for empty ones and for what UTF-8 does not have."""
    if "" in special_tokens:
        raise InputError("special_tokens: expected texts of at least one character, found an empty one; remove it")
    try:
        return [token.encode() for token in dict.fromkeys(special_tokens)]
    except UnicodeEncodeError as error:
        raise InputError(
            f"special_tokens: expected characters that UTF-8 has, found {error.object!r}; choose another text"
        ) from None


def documents(path: str | Path) -> Iterator[bytes]:
    """The documents of a corpus file in order: the bytes between its delimiters, blank ones left out.

    A document of more than MAX_DOCUMENT_BYTES bytes, such as a file without delimiters, comes in parts that end before
    white space, as several documents would: so memory is constant.
    """
    delimiter = END_OF_TEXT.encode()
    rest = b""
    with open_text(path) as file:
        while block := file.read(BLOCK_BYTES):
            *complete, rest = (rest + block).split(delimiter)
            if len(rest) > MAX_DOCUMENT_BYTES:
                part, rest = split_before_space(rest)
                complete.append(part)
            yield from (document for document in complete if document.strip())
    if rest.strip():
        yield rest


def split_before_space(text: bytes) -> tuple[bytes, bytes]:
    """Cut a text before its last spaces or line ends; one without any, in its middle.

    >>> split_before_space(b"one two  three")
    (b'one two', b'  three')
    """
    space = max(text.rfind(b" "), text.rfind(b"\n"), 0)
    place = len(text[:space].rstrip()) or len(text) // 2
    return text[:place], text[place:]
