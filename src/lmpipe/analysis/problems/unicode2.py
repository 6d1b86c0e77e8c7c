"""Problem unicode2: why tokenizers start from UTF-8, and how decoding goes wrong."""

from collections.abc import Sequence
from typing import get_args

from lmpipe.analysis.finding import Finding, Metric, Table, Text, missing
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_command, format_int, format_number, format_percent, format_session, join_words
from lmpipe.tokenizer.documents import BytewiseDecoder, EncodedSample, Encoding, TwoByteSequences, UnicodeDemo

ID = "unicode2"
TITLE = "Unicode encodings"
QUESTION = (
    "Why train a tokenizer on UTF-8 bytes rather than on UTF-16 or UTF-32, on which input does a decoder fail that "
    "takes bytes one at a time, and which two bytes decode to no character?"
)
SOURCE = "unicode.json"
ENCODINGS = get_args(Encoding)


def analyze(results: Results) -> Finding:
    """Return the answers that running the code gave."""
    unicode, path = results.document(UnicodeDemo, SOURCE), results.folder / SOURCE
    if unicode is None:
        return missing(f"The Unicode snippets have not been run in this study; run {format_command(path)}.")
    samples, decoder, pairs = unicode.encodings.samples, unicode.bytewise_decoder, unicode.two_byte_sequences
    sentences = [*encoding_sentences(samples), decoder_sentence(decoder), pair_sentence(pairs)]
    tables = [encodings_table(samples), verdicts_table(pairs)]
    metrics = encoding_metrics(samples) | decoding_metrics(decoder, pairs)
    return Finding("answered", metrics=metrics, sentences=sentences, tables=tables, texts=session_texts(unicode))


def total_bytes(samples: Sequence[EncodedSample], encoding: Encoding) -> int:
    """Bytes of all samples in one encoding."""
    return sum(sample.encodings[encoding].bytes for sample in samples)


def encoding_metrics(samples: Sequence[EncodedSample]) -> dict[str, Metric]:
    """Bytes of all samples by encoding."""
    return {
        f"{encoding.lower().replace('-', '')}_bytes": Metric(total_bytes(samples, encoding), "bytes", SOURCE)
        for encoding in ENCODINGS
    }


def decoding_metrics(decoder: BytewiseDecoder, pairs: TwoByteSequences) -> dict[str, Metric]:
    """Return the metrics of the bytewise decoder and of sequences of two bytes."""
    return {
        "wrong_decoder_input": Metric(decoder.input, "", SOURCE),
        "wrong_decoder_failing_characters": Metric(decoder.characters_failing, "characters", SOURCE),
        "invalid_two_bytes": Metric(pairs.example, "", SOURCE),
        "two_byte_sequences_valid": Metric(pairs.valid, "sequences", SOURCE),
        "two_byte_sequences_invalid": Metric(pairs.invalid, "sequences", SOURCE),
    }


def encoding_sentences(samples: Sequence[EncodedSample]) -> list[str]:
    """Compare UTF-8 with the others on the samples, and name the scripts for which it is not the shortest."""
    totals = {encoding: total_bytes(samples, encoding) for encoding in ENCODINGS}
    first = samples[0]
    widths = [format_number(first.encodings[encoding].bytes_per_character) for encoding in ENCODINGS]
    zeros = [format_percent(first.encodings[encoding].zero_share) for encoding in ENCODINGS]
    longer = [s.script for s in samples if s.encodings["UTF-8"].bytes > s.encodings["UTF-16"].bytes]
    any_zero = any(sample.encodings["UTF-8"].zero_share for sample in samples)
    sentences = [
        f"UTF-8 makes a tokenizer's input short and free of padding: {first.script} takes {widths[0]} byte a "
        f"character against {widths[1]} in UTF-16 and {widths[2]} in UTF-32, where {zeros[1]} and {zeros[2]} of the "
        f"bytes are zeros that carry nothing, while UTF-8 has {'some' if any_zero else 'none'} in any sample.",
        f"All {len(samples)} samples together take {format_int(totals['UTF-8'])} bytes in "
        f"UTF-8, {format_int(totals['UTF-16'])} "
        f"in UTF-16 and {format_int(totals['UTF-32'])} in UTF-32; it also keeps ASCII as it "
        "is, has no byte order, and is "
        "what most text on the web is written in.",
    ]
    if longer:
        sentences.append(f"UTF-16 is shorter than UTF-8 for the samples in {join_words(longer)}.")
    return sentences


def decoder_sentence(decoder: BytewiseDecoder) -> str:
    """Describe the input on which the bytewise decoder fails, and the reason."""
    return (
        "The decoder that takes bytes one at a time gives back the first "
        f"{format_int(decoder.words_decoded)} words "
        f"of the samples and fails on “{decoder.input}” ({decoder.input_bytes}) with “{decoder.exception}”: a "
        f"character beyond ASCII takes several bytes, none of which is valid alone, so that the decoder fails on "
        f"{format_int(decoder.characters_failing)} of all {format_int(decoder.characters)} characters, "
        f"from U+{decoder.first_failing_code_point:04X} on."
    )


def pair_sentence(pairs: TwoByteSequences) -> str:
    """Two bytes that are no text, the decoder's reason, and how many such pairs there are."""
    lead, following = pairs.example.split()
    lead_bits, following_bits = pairs.example_bits.split()
    return (
        f"The two bytes {lead} {following} decode to nothing, with the reason “{pairs.example_reason}”: {lead} "
        f"({lead_bits}) begins a longer character, whose next byte must begin with the bits 10, but {following} is "
        f"{following_bits}; of all {format_int(pairs.sequences)} sequences of two bytes, "
        f"{format_int(pairs.valid)} are "
        f"valid and {format_int(pairs.invalid)} are not ({format_percent(pairs.invalid / pairs.sequences)})."
    )


def encodings_table(samples: Sequence[EncodedSample]) -> Table:
    """Bytes per character and share of zero bytes of every sample."""
    columns = ["sample", "text", "characters"]
    columns += [f"{encoding} bytes/character" for encoding in ENCODINGS]
    columns += [f"{encoding} zeros (%)" for encoding in ENCODINGS]
    rows = []
    for sample in samples:
        entries = [sample.encodings[encoding] for encoding in ENCODINGS]
        widths = [entry.bytes_per_character for entry in entries]
        zeros = [100 * entry.zero_share for entry in entries]
        rows.append([sample.script, sample.text, sample.characters, *widths, *zeros])
    return Table("One sentence in several scripts, encoded without a byte-order mark", columns, rows)


def verdicts_table(pairs: TwoByteSequences) -> Table:
    """Return the decoder's verdicts on all sequences of two bytes."""
    rows = [[entry.reason, entry.sequences, entry.example] for entry in pairs.reasons]
    rows.append(["valid", pairs.valid, "00 00"])
    return Table("The decoder's verdicts on all sequences of two bytes", ["verdict", "sequences", "first"], rows)


def session_texts(unicode: UnicodeDemo) -> list[Text]:
    """Return the code that was run, with its real output."""
    python = f"run by Python {unicode.python}"
    return [
        Text(f"The measure of the first table, {python}", unicode.encodings.code),
        Text(f"The wrong decoder, on a word that it decodes and on one that it does not, {python}",
             format_session(list(map(dict, unicode.bytewise_decoder.session)))),
        Text(f"Bytes that are no text, {python}", format_session(list(map(dict, unicode.two_byte_sequences.session)))),
    ]  # fmt: skip
