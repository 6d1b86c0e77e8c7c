"""Files of every format and compression give the same documents; damage is one error."""

import csv
import gzip
import io
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.data.sources import readers
from lmpipe.data.sources.readers import TextReader, split_lines, split_paragraphs, unpacked_blocks
from lmpipe.errors import InputError

END = "<|endoftext|>"
# Commas, quotes, line ends, several scripts; no text begins or ends with white space.
TEXTS = ["One, two.", 'She said: "No."\nThen she left.', "Три, четыре", "五。", "a\r\nb", "'x' " * 500 + "end"]
EXPECTED = "".join(f"{text}\n{END}\n" for text in TEXTS).encode()


def as_csv(texts):
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerows([("id", "text"), *enumerate(texts)])
    return file.getvalue().encode()


def as_parquet(texts):
    file = io.BytesIO()
    table = pyarrow.table({"id": range(len(texts)), "text": pyarrow.array(texts, pyarrow.string())})
    pyarrow.parquet.write_table(table, file, row_group_size=2)
    return file.getvalue()


FORMATS = {
    ".txt": lambda texts: "".join(f"{text}\n{END}\n" for text in texts).encode(),
    ".jsonl": lambda texts: "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode(),
    ".csv": as_csv,
    ".parquet": as_parquet,
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def read(path, **settings):
    return b"".join(TextReader(**settings).read(str(path)))


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, ending, compression):
    data = COMPRESSIONS[compression](FORMATS[ending](TEXTS))
    assert read(write(tmp_path / f"a{ending}{compression}", data)) == EXPECTED


@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
def test_members_of_a_compressed_file_are_joined_and_a_cut_one_is_refused(tmp_path, compression):
    pack = COMPRESSIONS[compression]
    text = FORMATS[".txt"](TEXTS * 50)
    path = write(tmp_path / f"a.txt{compression}", pack(text) + pack(text))
    assert read(path) == text * 2
    path.write_bytes((pack(text) + pack(text))[:-9])
    with pytest.raises(InputError, match="damaged"):
        read(path)
    path.write_bytes(pack(text)[:40] + b"\0\1\2\3" * 9 + pack(text)[60:])
    with pytest.raises(InputError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("delimiter", ["\none\ntwo\r\n\r\n three\n\n\nfour"]),
        ("files", ["\none\ntwo\r\n\r\n three\n\n\nfour"]),
        ("lines", ["one", "two", " three", "four"]),
        ("blank_lines", ["one\ntwo\r", " three", "four"]),
    ],
)
def test_documents_of_a_plain_text(tmp_path, documents, expected):
    path = write(tmp_path / "a.txt", "\ufeff\none\ntwo\r\n\r\n three\n\n\nfour")
    assert read(path, documents=documents).decode() == "".join(f"{text}\n{END}\n" for text in expected)


@given(st.lists(st.text("ab\n", max_size=8), max_size=9))
def test_lines_and_paragraphs_do_not_depend_on_blocks(texts):
    blocks, text = [text.encode() for text in texts], "".join(texts).encode()
    lines = text.split(b"\n")
    assert list(split_lines(blocks)) == (lines if lines[-1] else lines[:-1])
    assert list(split_paragraphs(blocks)) == list(split_paragraphs([text]))


def test_records_without_text_are_left_out_and_counted(tmp_path):
    reader = TextReader(text_key="body")
    lines = ['{"body": "a"}', '{"body": null}', "", '{"body": " "}', '{"body": "\\ud800b"}']
    text = b"".join(reader.read(str(write(tmp_path / "a.jsonl", "\n".join(lines)))))
    assert text.decode() == f"a\n{END}\n?b\n{END}\n"
    assert reader.blank_records == 2


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.jsonl", '{"content": "a"}\n', "has no 'text'; set text_key to one of 'content'"),
        ("a.jsonl", '{"text": "a"}\n{"texts": "a"}\n', "line 2 has no 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"text": 7}\n', "line 2 has 7 as text"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\n', "line 2 is not a JSON record"),
        ("a.jsonl", b'{"text": "' + b"a" * 40_000 + b'"}\n{"text": "\xff"}\n', "line 2 is not a JSON record"),
        ("a.jsonl", '[{"text": "a"}]', "does not begin with a line that is a JSON record"),
        ("a.jsonl", "plain text\n", "does not begin with a line that is a JSON record"),
        ("a.csv", "id,body\n1,a\n", "has no 'text'; set text_key to one of 'id', 'body'"),
        ("a.csv", "id,text\n1,a,b\n", "line 2 has 3 columns"),
        ("a.csv", 'id,text\n1,"a\n', "is not valid CSV"),
        ("a.csv", b"id,text\n1," + b"a" * 40_000 + b"\n2,\xff\n", "line 3 is not UTF-8"),
        ("a.parquet", pyarrow_bytes := as_parquet(["a", "b"])[:-20], "damaged Parquet"),
        ("a.parquet", pyarrow_bytes[:8], "damaged Parquet"),
        ("a.parquet", "text", "is no .parquet file"),
        ("a.txt.gz", "text", "is no .gz file"),
        ("a.txt.gz", gzip.compress(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(99), mtime=0), "is a binary file"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "is a .gz file by its content"),
        ("a.jsonl.zst", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    ],
)
def test_wrong_content_is_one_error_with_its_place(tmp_path, name, data, problem):
    with pytest.raises(InputError) as error:
        read(write(tmp_path / name, data))
    assert problem in str(error.value) and error.value.where == str(tmp_path / name) and error.value.remedy


def test_parquet_needs_a_column_of_text(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "text": [7]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="7 as text"):
        read(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="set text_key to one of 'body', 'text'"):
        read(tmp_path / "a.parquet", text_key="content")
    assert read(tmp_path / "a.parquet", text_key="body") == f"a\n{END}\n".encode()


def test_a_packed_file_is_read_in_small_blocks(tmp_path):
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"word " * 10_000_000, compresslevel=9))
    assert max(map(len, unpacked_blocks(str(path)))) <= 1100 * readers.PACKED_BYTES


def test_json_lines_may_be_called_json(tmp_path):
    for name in ("a.json", "a.ndjson"):
        assert read(write(tmp_path / name, FORMATS[".jsonl"](TEXTS))) == EXPECTED


def test_a_record_that_ends_with_a_delimiter_is_one_document(tmp_path):
    texts = ["One.<|endoftext|>", "Two.\n<|endoftext|>\n", "<|endoftext|>", "Three."]
    reader = TextReader()
    path = write(tmp_path / "a.jsonl", FORMATS[".jsonl"](texts))
    expected = f"One.{END}\nTwo.\n{END}\nThree.\n{END}\n".encode()
    assert b"".join(reader.read(str(path))) == expected
    assert reader.blank_records == 1


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_file_that_is_a_document_has_no_delimiter_within(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    for text in ("One.\nTwo.", f"One.\nTwo.\n{END}\n\n"):
        assert read(write(tmp_path / "a.txt", text), documents="files").split() == [b"One.", b"Two.", END.encode()]
    with pytest.raises(InputError, match="documents: delimiter"):
        read(write(tmp_path / "b.txt", f"One.\n{END}\nTwo.\n"), documents="files")


def test_zstandard_with_a_long_window_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # does not know the size
    data = compressor.compress(FORMATS[".txt"](TEXTS)) + compressor.flush()
    assert read(write(tmp_path / "a.txt.zst", data)) == EXPECTED
