"""Problem unicode2: why tokenizers start from UTF-8, and how decoding goes wrong."""

from collections.abc import Sequence
from typing import get_args

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table, Text, missing
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_command, format_session
from lmpipe.tokenizer.documents import EncodedSample, Encoding, TwoByteSequences, UnicodeDemo

ID = "unicode2"
SOURCE = "unicode.json"
ENCODINGS = get_args(Encoding)


def analyze(results: Results) -> Finding:
    """Return the answers that running the code gave."""
    unicode, path = results.document(UnicodeDemo, SOURCE), results.folder / SOURCE
    if unicode is None:
        return missing(f"The Unicode snippets have not been run in this study; run {format_command(path)}.")
    samples, decoder, pairs = unicode.encodings.samples, unicode.bytewise_decoder, unicode.two_byte_sequences
    facts = {
        "script": samples[0].script,
        "num_samples": len(samples),
        "shorter_in_utf16": [s.script for s in samples if s.encodings["UTF-8"].bytes > s.encodings["UTF-16"].bytes],
        "zeros_in_utf8": any(sample.encodings["UTF-8"].zero_share for sample in samples),
        "wrong_decoder_bytes": decoder.input_bytes,
        "wrong_decoder_exception": decoder.exception,
        "first_failing_code_point": f"U+{decoder.first_failing_code_point:04X}",
        "invalid_reason": pairs.example_reason,
    }
    return Finding(
        "answered",
        metrics=encoding_metrics(samples) | decoding_metrics(unicode),
        facts=facts,
        tables=[encodings_table(samples), verdicts_table(pairs)],
        figures=[Figure("bytes_per_character", bytes_per_character(samples))],
        texts=session_texts(unicode),
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


def decoding_metrics(unicode: UnicodeDemo) -> dict[str, Metric]:
    """Return the metrics of the bytewise decoder and of sequences of two bytes."""
    decoder, pairs = unicode.bytewise_decoder, unicode.two_byte_sequences
    return {
        "wrong_decoder_input": Metric(decoder.input, "", SOURCE),
        "wrong_decoder_failing_characters": Metric(decoder.characters_failing, "characters", SOURCE),
        "invalid_two_bytes": Metric(pairs.example, "", SOURCE),
        "two_byte_sequences_valid": Metric(pairs.valid, "sequences", SOURCE),
        "two_byte_sequences_invalid": Metric(pairs.invalid, "sequences", SOURCE),
        "two_byte_invalid_share": Metric(pairs.invalid / pairs.sequences, "share of the sequences", SOURCE),
    }


def bytes_per_character(samples: Sequence[EncodedSample]) -> Bars:
    """Return the bytes per character by script, a bar for each encoding."""
    groups = {name: [sample.encodings[name].bytes_per_character for sample in samples] for name in ENCODINGS}
    return Bars("bytes per character", [sample.script for sample in samples], groups)


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


def verdicts_table(pairs: TwoByteSequences) -> Table:
    """Return the decoder's verdicts on all sequences of two bytes."""
    rows = [[entry.reason, entry.sequences, entry.example] for entry in pairs.reasons]
    rows.append(["valid", pairs.valid, "00 00"])
    return Table("All sequences of two bytes, decoded as UTF-8", ["verdict", "sequences", "first"], rows)


def session_texts(unicode: UnicodeDemo) -> list[Text]:
    """Return the code that was run, with its real output."""
    decoder, pairs = unicode.bytewise_decoder, unicode.two_byte_sequences
    return [
        Text("Bytes and zeros of a text", unicode.encodings.code),
        Text("A decoder that takes each byte alone", format_session(list(map(dict, decoder.session)))),
        Text("Bytes that are not UTF-8", format_session(list(map(dict, pairs.session)))),
    ]
