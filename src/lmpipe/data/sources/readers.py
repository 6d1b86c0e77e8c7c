"""Readers of text files: plain text, JSON Lines, CSV and Parquet, also compressed, as blocks of a corpus text.

In the blocks, `<|endoftext|>` ends each document. Memory is that of a block, or of one record or line.
"""

import contextlib
import csv
import json
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, assert_never

import zstandard

from lmpipe.data.sources.first_bytes import BYTE_ORDER_MARK, HEAD_BYTES, check_head, missing_key
from lmpipe.errors import InputError
from lmpipe.io.files import CHUNK_BYTES, open_text
from lmpipe.io.validation import short_repr
from lmpipe.study.corpora import DocumentUnit
from lmpipe.study.text_files import text_format
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT

DELIMITER = END_OF_TEXT.encode()
PACKED_BYTES = 1 << 16  # read at a time of a compressed file: text may be a thousand times as long
PARQUET_ROWS = 256
MAX_CSV_FIELD = (1 << 31) - 1
MAX_ZSTD_WINDOW = 1 << 31  # that of `zstd --long=31`
# Functions that start to decompress a member of a file, and the errors of a damaged one.
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lzma.LZMADecompressor,
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).decompressobj(),
}
DAMAGE = (zlib.error, lzma.LZMAError, zstandard.ZstdError)


class TextReader:
    """Reader of the files of a corpus.

    `documents` says what a document of a plain text is, as in a study file; a record's text is under `text_key`.
    `blank_records` counts the records and lines without text, which are left out.
    """

    def __init__(self, documents: DocumentUnit = "delimiter", text_key: str = "text"):
        self.documents, self.text_key, self.blank_records = documents, text_key, 0

    def read(self, path: str) -> Iterator[bytes]:
        """Yield the text of a file in blocks, with the end of each document.

        Raises InputError if the file is damaged or not what its name promises.
        """
        ending = text_format(path)[0]
        check_file(path, ending, self.text_key)
        match ending:
            case ".txt":
                blocks = without_mark(unpacked_blocks(path))
                match self.documents:
                    case "delimiter":
                        yield from end_document(blocks)
                    case "files":
                        yield from end_document(without_delimiter(blocks, path))
                    case "lines":
                        yield from self.as_documents(line.removesuffix(b"\r") for line in split_lines(blocks))
                    case "blank_lines":
                        yield from self.as_documents(split_paragraphs(blocks))
                    case _:
                        assert_never(self.documents)
            case ".jsonl":
                yield from self.as_documents(self._json_texts(path))
            case ".csv":
                yield from self.as_documents(self._csv_texts(path))
            case ".parquet":
                yield from self.as_documents(self._parquet_texts(path))

    def as_documents(self, texts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield each text as a document, but count blank ones instead."""
        for text in texts:
            if text.replace(DELIMITER, b"").strip():
                yield as_document(text)
            else:
                self.blank_records += 1

    def _json_texts(self, path: str) -> Iterator[bytes]:
        for number, line in enumerate(split_lines(without_mark(unpacked_blocks(path))), 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    problem = f"line {number} is not a JSON record: {short_repr(line[:80])}"
                    raise InputError(path, problem, "write one record a line, or name a plain text .txt") from None
                yield record_text(record, self.text_key, path, f"line {number}")

    def _csv_texts(self, path: str) -> Iterator[bytes]:
        csv.field_size_limit(MAX_CSV_FIELD)
        lines = split_lines(without_mark(unpacked_blocks(path)))
        rows = csv.reader((line.decode() + "\n" for line in lines), strict=True)
        try:
            header = next(rows, [])
            if self.text_key not in header:
                raise missing_key(self.text_key, header, path, "the header")
            column = header.index(self.text_key)
            for row in rows:
                if row and len(row) != len(header):
                    problem = f"line {rows.line_num} has {len(row)} columns, but the header has {len(header)}"
                    raise InputError(path, problem, "put texts with commas in quotes")
                yield row[column].encode() if row else b""
        except UnicodeDecodeError:
            raise InputError(path, f"line {rows.line_num + 1} is not UTF-8", "convert the file to UTF-8") from None
        except csv.Error as error:
            problem = f"line {rows.line_num} is not valid CSV ({error})"
            raise InputError(path, problem, "put texts with commas, quotes or line ends in quotes") from None

    def _parquet_texts(self, path: str) -> Iterator[bytes]:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_text(path))
            if text_format(path)[1]:  # a Parquet file is read from its end
                packed, file = file, stack.enter_context(tempfile.TemporaryFile())
                file.writelines(unpack(packed, path))
            try:
                table = ParquetFile(file)
                if self.text_key not in table.schema_arrow.names:
                    raise missing_key(self.text_key, table.schema_arrow.names, path, "the schema")
                for batch in table.iter_batches(PARQUET_ROWS, columns=[self.text_key]):
                    for row in batch.to_pylist():
                        yield record_text(row, self.text_key, path, "a row")
            except (pyarrow.ArrowException, OSError) as error:
                problem = f"is a damaged Parquet file ({' '.join(str(error).split())[:200]})"
                raise InputError(path, problem, "write or fetch it again") from None


def record_text(record: Any, text_key: str, path: str | Path, where: str) -> bytes:
    """Return the text of a record, empty for null; raise InputError if it has none under `text_key`."""
    if not isinstance(record, dict) or text_key not in record:
        raise missing_key(text_key, list(record) if isinstance(record, dict) else [], path, where)
    text = record[text_key]
    if not isinstance(text, str | None):
        raise InputError(path, f"{where} has {short_repr(text)} as {text_key}, which is not text", "set text_key")
    return (text or "").encode("utf-8", "replace")


def check_file(path: str, ending: str, text_key: str) -> None:
    """Raise InputError unless a file, unpacked if its name says so, begins like a text of the format of an ending."""
    compression = text_format(path)[1]
    with open_text(path) as file:
        head = file.read(HEAD_BYTES)
        if compression:
            check_head(head, path, compression)
            file.seek(0)
            head = join_first(unpack(file, path), HEAD_BYTES)
        check_head(head[:HEAD_BYTES], path, ending, text_key)


# --- blocks of bytes


def unpacked_blocks(path: str) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks, unpacked if its name ends in one of COMPRESSIONS."""
    with open_text(path) as file:
        if text_format(path)[1]:
            yield from unpack(file, path)
        else:
            while block := file.read(CHUNK_BYTES):
                yield block


class DamagedFileError(InputError):
    """A compressed file that is damaged or ends too early."""


def unpack(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the unpacked bytes of an open file, compressed as its `name` says, of one member or several.

    Raises DamagedFileError if the file is damaged or ends too early.
    """
    compression = text_format(name)[1]
    start = DECOMPRESSORS[compression]
    member = start()
    try:
        while block := file.read(PACKED_BYTES):
            while block:
                if member.eof:
                    if not (block := block.lstrip(b"\0")):  # padding
                        break
                    member = start()
                if data := member.decompress(block):
                    yield data
                block = member.unused_data if member.eof else b""
        problem = "" if member.eof else "it ends too early"
    except DAMAGE as error:
        problem = str(error)
    if problem:
        raise DamagedFileError(name, f"is a damaged {compression} file ({problem})", "write or fetch it again")


def without_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks without a byte-order mark at their start."""
    blocks = iter(blocks)
    yield join_first(blocks, len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    yield from blocks


def join_first(blocks: Iterator[bytes], size: int) -> bytes:
    """Return the next blocks as one of `size` bytes or more, or all of them if they are shorter."""
    joined = b""
    while len(joined) < size and (block := next(blocks, b"")):
        joined += block
    return joined


def end_document(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks, and a delimiter after the last one if the text does not end with one."""
    block = last = b""
    for block in blocks:
        yield block
        last = (last + block).rstrip()[-len(DELIMITER) :]
    if last and last != DELIMITER:
        yield (b"" if block.endswith(b"\n") else b"\n") + DELIMITER + b"\n"


def as_document(text: bytes) -> bytes:
    r"""Return a text as one document of a corpus, whether it ends with a delimiter or not.

    >>> as_document(b"one"), as_document(b"two\n"), as_document(b"three<|endoftext|>")
    (b'one\n<|endoftext|>\n', b'two\n<|endoftext|>\n', b'three<|endoftext|>\n')
    """
    if (stripped := text.rstrip()).endswith(DELIMITER):
        return stripped + b"\n"
    return text + (b"" if text.endswith(b"\n") else b"\n") + DELIMITER + b"\n"


def without_delimiter(blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yield the blocks of a file that is one document; raise InputError if a delimiter within it ends one."""
    tail = b""
    for block in blocks:
        joined = tail + block
        index = joined.find(DELIMITER)
        if index >= 0 and joined[index + len(DELIMITER) :].strip():
            raise InputError(path, f"has {END_OF_TEXT} within its text", "use documents: delimiter")
        yield block
        tail = joined[index:] if index >= 0 else joined[-len(DELIMITER) + 1 :]


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their ends."""
    parts: list[bytes] = []
    for block in blocks:
        first, *lines = block.split(b"\n")
        parts.append(first)
        for line in lines:
            yield b"".join(parts)
            parts = [line]
    if any(parts):
        yield b"".join(parts)


def split_paragraphs(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the texts between blank lines."""
    lines: list[bytes] = []
    for line in split_lines(blocks):
        if line.strip():
            lines.append(line)
        elif lines:
            yield b"\n".join(lines)
            lines = []
    if lines:
        yield b"\n".join(lines)
