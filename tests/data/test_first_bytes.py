"""First bytes of files: what is no plain text in UTF-8 is refused, and what is one is not."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.data.sources.first_bytes import HEAD_BYTES, check_head
from lmpipe.errors import InputError

PROSE = "The ship left the harbour at noon, and nobody waved.\n" * 40
RUSSIAN = "Корабль вышел из гавани в полдень, и никто не махал.\n" * 40
CHINESE = "船在中午离开港口，没有人挥手。日本語のテキスト。\n" * 40
FRENCH = "L’été dernier, à la fenêtre : « C’est ça », répéta-t-elle, gênée.\n" * 40


def zip_archive(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


def tar_archive(data):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def npy(data):
    file = io.BytesIO()
    np.save(file, np.frombuffer(data, np.uint8).astype(np.uint16))
    return file.getvalue()


NOT_TEXT = {
    "gzip": gzip.compress(PROSE.encode()),
    "xz": lzma.compress(PROSE.encode()),
    "zstd": zstandard.compress(PROSE.encode()),
    "bzip2": bz2.compress(PROSE.encode()),
    "zip": zip_archive(PROSE.encode()),
    "tar": tar_archive(PROSE.encode()),
    "parquet": b"PAR1" + PROSE.encode(),
    "numpy": npy(PROSE.encode()),
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4,
    "pdf": b"%PDF-1.7\n" + PROSE.encode(),
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "JSON lines": b'{"text": "a"}\n{"text": "b"}\n',
    "JSON array": b'[\n  {"id": 1, "text": "a"}\n]\n',
    "JSON with a mark": b'\xef\xbb\xbf{"a": 1}',
    "Latin-1": FRENCH.replace("’", "'").encode("latin-1"),
    "Windows-1252": FRENCH.encode("cp1252"),
    "KOI8-R": RUSSIAN.encode("koi8-r"),
    "GB18030": CHINESE.encode("gb18030"),
}


@pytest.mark.parametrize("data", NOT_TEXT.values(), ids=NOT_TEXT)
def test_what_is_no_plain_text_is_refused_with_a_remedy(data):
    with pytest.raises(InputError) as error:
        check_head(data[:HEAD_BYTES], "texts/a.txt", ".txt")
    assert error.value.where == "texts/a.txt" and error.value.remedy


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [PROSE, RUSSIAN, CHINESE], ids=["English", "Russian", "Chinese"])
def test_wide_encodings_are_refused_with_and_without_a_mark(encoding, text):
    with pytest.raises(InputError):
        check_head(text.encode(encoding)[:HEAD_BYTES], "a.txt", ".txt")


@pytest.mark.parametrize(
    "text",
    [
        *(PROSE, RUSSIAN, CHINESE, FRENCH, "\ufeff" + PROSE),
        *("[Illustration: a ship]\n", "{curly} words", "[1, 2, 3]", "PAR for the course", "\x1b[31mred\x1b[0m\n" * 9),
        *("\0".join(["a long paragraph " * 20] * 4), "a\r\nb\r\n", "", "\f\v\b"),
        *("<p>markup</p>", "a,b\n1,2\n", "x" * HEAD_BYTES),
    ],
)
def test_texts_pass(text):
    check_head(text.encode()[:HEAD_BYTES], "a.txt", ".txt")


def test_a_few_malformed_bytes_pass():
    check_head(PROSE.encode() * 3 + b"\xff\xfe", "a.txt", ".txt")
    check_head(RUSSIAN.encode() * 3 + b"\xff" * 9, "a.txt", ".txt")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300))
def test_any_text_cut_anywhere_inside_a_character_passes(text):
    data = ("." + text).encode() * HEAD_BYTES
    check_head(data[:HEAD_BYTES], "a.txt", ".txt")
