"""Problems unicode1 and unicode2: the character chr(0), and why tokenizers start from UTF-8."""

from collections.abc import Sequence
from typing import get_args

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table, Text, missing
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_session
from lmpipe.study.paths import RELATIVE
from lmpipe.tokenizer.documents import EncodedSample, Encoding, UnicodeDemo

SOURCE = str(RELATIVE.unicode)
ENCODINGS = get_args(Encoding)


def missing_demo(results: Results) -> Finding:
    """Return the finding of a study without unicode.json."""
    command = results.command(results.folder / SOURCE)
    return missing(f"The Unicode snippets have not been run in this study; run {command}.")


def analyze_null_character(results: Results) -> Finding:
    """Return the representation of chr(0) against its printed form, and its effect in a text."""
    unicode = results.document(UnicodeDemo, SOURCE)
    if unicode is None:
        return missing_demo(results)
    null = unicode.null
    metrics = {
        "representation": Metric(null.representation, "", SOURCE),
        "printed_characters": Metric(len(null.printed), "characters", SOURCE),
        "joined_length": Metric(null.joined_length, "characters", SOURCE),
    }
    facts = {
        "code_points": [f"U+{ord(character):04X}" for character in null.printed],
        "is_control": null.category == "Cc",
        "is_named_null": null.unicode_name_is_null,
        "is_escaped_inside": null.representation.strip("'") in null.joined_representation,
        "is_printed_inside": "\0" in null.joined_printed,
    }
    caption = f"Session of Python {unicode.python}; ␀ is the null character"
    session = Text(caption, format_session(list(map(dict, null.session))))
    return Finding("answered", metrics=metrics, facts=facts, texts=[session])


def analyze_encodings(results: Results) -> Finding:
    """Return the sizes of three encodings, and how decoding goes wrong."""
    unicode = results.document(UnicodeDemo, SOURCE)
    if unicode is None:
        return missing_demo(results)
    samples, decoder, pairs = unicode.encodings.samples, unicode.bytewise_decoder, unicode.two_byte_sequences
    groups = {name: [sample.encodings[name].bytes_per_character for sample in samples] for name in ENCODINGS}
    bars = Bars("bytes per character", [sample.script for sample in samples], groups)
    verdicts = [[entry.reason, entry.sequences, entry.example] for entry in pairs.reasons]
    verdicts.append(["valid", pairs.valid, "00 00"])
    columns = ["verdict", "sequences", "first"]
    return Finding(
        "answered",
        metrics=encoding_metrics(samples)
        | {
            "wrong_decoder_input": Metric(decoder.input, "", SOURCE),
            "wrong_decoder_failing_characters": Metric(decoder.characters_failing, "characters", SOURCE),
            "invalid_two_bytes": Metric(pairs.example, "", SOURCE),
            "two_byte_sequences_valid": Metric(pairs.valid, "sequences", SOURCE),
            "two_byte_sequences_invalid": Metric(pairs.invalid, "sequences", SOURCE),
            "two_byte_invalid_share": Metric(pairs.invalid / pairs.sequences, "share of the sequences", SOURCE),
        },
        facts={
            "script": samples[0].script,
            "num_samples": len(samples),
            "shorter_in_utf16": [s.script for s in samples if s.encodings["UTF-8"].bytes > s.encodings["UTF-16"].bytes],
            "zeros_in_utf8": any(sample.encodings["UTF-8"].zero_share for sample in samples),
            "first_failing_code_point": f"U+{decoder.first_failing_code_point:04X}",
            "invalid_reason": pairs.example_reason,
        },
        tables=[
            encodings_table(samples),
            Table("All sequences of two bytes, decoded as UTF-8", columns, verdicts),
        ],
        figures=[Figure("bytes_per_character", bars)],
        texts=[
            Text("Bytes and zeros of a text", unicode.encodings.code),
            Text("A decoder that takes each byte alone", format_session(list(map(dict, decoder.session)))),
            Text("Bytes that are not UTF-8", format_session(list(map(dict, pairs.session)))),
        ],
    )


def encoding_metrics(samples: Sequence[EncodedSample]) -> dict[str, Metric]:
    """Return the bytes of all samples, and the bytes per character and share of zeros of the first one."""
    metrics = {}
    for encoding in ENCODINGS:
        name, first = encoding.lower().replace("-", ""), samples[0].encodings[encoding]
        metrics |= {
            f"{name}_bytes": Metric(sum(sample.encodings[encoding].bytes for sample in samples), "bytes", SOURCE),
            f"{name}_bytes_per_character": Metric(first.bytes_per_character, "bytes per character", SOURCE),
            f"{name}_zero_share": Metric(first.zero_share, "share of the bytes", SOURCE),
        }
    return metrics


def encodings_table(samples: Sequence[EncodedSample]) -> Table:
    """Return the bytes per character and the share of zero bytes of every sample."""
    columns = ["script", "text", "characters"]
    columns += [f"{encoding} bytes/character" for encoding in ENCODINGS]
    columns += [f"{encoding} zeros (%)" for encoding in ENCODINGS]
    rows = []
    for sample in samples:
        entries = [sample.encodings[encoding] for encoding in ENCODINGS]
        widths = [entry.bytes_per_character for entry in entries]
        zeros = [100 * entry.zero_share for entry in entries]
        rows.append([sample.script, sample.text, sample.characters, *widths, *zeros])
    return Table("Encodings without a byte-order mark", columns, rows)
