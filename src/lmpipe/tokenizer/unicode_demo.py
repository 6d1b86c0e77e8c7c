"""Demonstrations of Unicode and its encodings (handout, problems unicode1 and unicode2).

The snippets below are executed, and stored with their output, so code and output cannot drift apart.
"""

import ast
import contextlib
import io
import platform
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

from lmpipe.tokenizer.documents import (
    BytewiseDecoder,
    DecoderVerdict,
    EncodedSample,
    EncodedSize,
    Encoding,
    EncodingComparison,
    NullCharacter,
    Statement,
    TwoByteSequences,
    UnicodeDemo,
)

# An explicit byte order, so no byte-order mark is counted.
ENCODINGS: dict[Encoding, str] = {"UTF-8": "utf-8", "UTF-16": "utf-16-le", "UTF-32": "utf-32-le"}

SAMPLES = {
    "English": "The little fox sleeps under the old tree.",
    "German": "Der kleine Fuchs schläft unter dem großen Baum.",
    "Greek": "Η μικρή αλεπού κοιμάται κάτω από το παλιό δέντρο.",
    "Russian": "Маленькая лиса спит под старым деревом.",
    "Arabic": "ينام الثعلب الصغير تحت الشجرة القديمة.",
    "Hindi": "छोटी लोमड़ी पुराने पेड़ के नीचे सोती है।",
    "Chinese": "小狐狸睡在老树下。",
    "Japanese": "小さなキツネは古い木の下で眠っています。",
    "Korean": "작은 여우가 오래된 나무 아래에서 자고 있습니다.",
    "emoji": "🦊😴🌳🌙🦉",
}

NULL_SESSION = """\
chr(0)
print(chr(0))
repr(chr(0)) == str(chr(0))
"one" + chr(0) + "two"
print("one" + chr(0) + "two")
len("one" + chr(0) + "two")
"""

MEASURE = """\
def measure(text, encoding):
    data = text.encode(encoding)
    return len(data), data.count(0)
"""

BYTE_BY_BYTE = """\
def decode_byte_by_byte(data):
    return "".join(bytes([byte]).decode("utf-8") for byte in data)
"""


def demonstrate_unicode() -> UnicodeDemo:
    """Run all demonstrations; the result is the same on every machine with the same version of Python."""
    return UnicodeDemo(
        python=platform.python_version(),
        null=null_character(),
        encodings=compare_encodings(),
        bytewise_decoder=bytewise_decoder_failure(),
        two_byte_sequences=two_byte_sequences(),
    )


def run_snippet(code: str) -> tuple[Statement, ...]:
    r"""Run code as the interactive interpreter does; return each statement with its output, exceptions included.

    >>> run_snippet("x = 2\nx + 1\nprint('hi')")[1:]
    (Statement(code='x + 1', output='3\n'), Statement(code="print('hi')", output='hi\n'))
    """
    namespace: dict[str, Any] = {}
    return tuple(
        Statement(code=ast.get_source_segment(code, statement), output=output_of(statement, namespace))
        for statement in ast.parse(code).body
    )


def output_of(statement: ast.stmt, namespace: dict[str, Any]) -> str:
    """Execute one statement; return the text that it prints, its value, or its exception."""
    compiled = compile(ast.Interactive([statement]), "<session>", "single")
    output, displayhook = io.StringIO(), sys.displayhook
    # The default hook also stores the value in builtins, where it would outlive the session.
    sys.displayhook = lambda value: None if value is None else print(repr(value))
    try:
        with contextlib.redirect_stdout(output):
            exec(compiled, namespace)
    except Exception as error:
        output.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.displayhook = displayhook
    return output.getvalue()


def function_of(code: str, name: str) -> Callable:
    """Return the function that a snippet defines."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace[name]


def null_character() -> NullCharacter:
    """Demonstrate chr(0): its repr, the output of print, and its effect inside a longer text."""
    session = run_snippet(NULL_SESSION)
    representation, printed, _, joined, joined_printed, length = (statement.output for statement in session)
    return NullCharacter(
        session=session,
        representation=representation.removesuffix("\n"),
        printed=printed.removesuffix("\n"),
        joined_representation=joined.removesuffix("\n"),
        joined_printed=joined_printed.removesuffix("\n"),
        joined_length=ast.literal_eval(length),
        category=unicodedata.category(chr(0)),
        unicode_name_is_null=unicodedata.lookup("NULL") == chr(0),
    )


def compare_encodings() -> EncodingComparison:
    """Measure bytes per character and the fraction of zero bytes of every sample in every encoding."""
    measure = function_of(MEASURE, "measure")
    samples = []
    for script, text in SAMPLES.items():
        sizes = {name: measure(text, encoding) for name, encoding in ENCODINGS.items()}
        encodings = {
            name: EncodedSize(bytes=size, bytes_per_character=size / len(text), zero_share=zeros / size)
            for name, (size, zeros) in sizes.items()
        }
        samples.append(EncodedSample(script=script, text=text, characters=len(text), encodings=encodings))
    return EncodingComparison(code=MEASURE, samples=tuple(samples))


def bytewise_decoder_failure() -> BytewiseDecoder:
    """Apply the decoder that decodes each byte alone to words, until one fails; count the characters that fail."""
    decode = function_of(BYTE_BY_BYTE, "decode_byte_by_byte")
    bad_bytes = {byte for byte in range(256) if verdict(bytes([byte]), decode) != "valid"}
    words = [word for text in SAMPLES.values() for word in text.split()]
    word = next(word for word in words if not bad_bytes.isdisjoint(word.encode()))
    # Surrogates are not characters, and UTF-8 cannot encode them.
    codes = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    failing = [code for code in codes if not bad_bytes.isdisjoint(chr(code).encode())]
    calls = [f'decode_byte_by_byte("{text}".encode("utf-8"))' for text in (words[0], word)]
    session = run_snippet("\n".join([BYTE_BY_BYTE, *calls, f'{word.encode("utf-8")!r}.decode("utf-8")']))
    return BytewiseDecoder(
        session=session,
        input=word,
        characters_failing=len(failing),
        first_failing_code_point=failing[0],
    )


def verdict(data: bytes, decode: Callable = bytes.decode) -> str:
    """Return "valid", or the reason for which some bytes are not UTF-8."""
    try:
        decode(data)
    except UnicodeDecodeError as error:
        return error.reason
    return "valid"


def two_byte_sequences() -> TwoByteSequences:
    """Decode each of the 65,536 sequences of two bytes; count the outcomes and keep the first sequence of each."""
    counts: Counter[str] = Counter()
    first: dict[str, bytes] = {}
    for value in range(1 << 16):
        data = value.to_bytes(2, "big")
        reason = verdict(data)
        counts[reason] += 1
        first.setdefault(reason, data)
    valid = counts.pop("valid")
    # The example: the first byte of a longer character, followed by a byte that cannot continue it.
    lead = next(byte for byte in range(256) if verdict(bytes([byte])) == "unexpected end of data")
    example = next(data for byte in range(256) if verdict(data := bytes([lead, byte])) != "valid")
    sequences = [bytes([lead]), example, *(first[reason] for reason in counts)]
    return TwoByteSequences(
        session=run_snippet("\n".join(f'{data!r}.decode("utf-8")' for data in dict.fromkeys(sequences))),
        example=example.hex(" "),
        example_reason=verdict(example),
        sequences=1 << 16,
        valid=valid,
        invalid=counts.total(),
        reasons=tuple(
            DecoderVerdict(reason=reason, sequences=count, example=first[reason].hex(" "))
            for reason, count in counts.items()
        ),
    )
