"""First bytes of a text file: refusal of everything that is not the text that the file's name promises."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from lmpipe.errors import InputError
from lmpipe.io.validation import short_repr

HEAD_BYTES = 1 << 15
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# First bytes of files by the ending of their names.
SIGNATURES = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd", ".parquet": b"PAR1"}
ARCHIVES = {b"PK\x03\x04": "a ZIP archive", b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive", b"BZh": "a bzip2 file"}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
TAR_MARK, TAR_OFFSET = b"ustar", 257
# Longest first: the mark of UTF-32 begins with that of UTF-16.
UNICODE_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
CONTROLS = bytes({*range(32), 127} - set(b"\b\t\n\v\f\r\x1b"))
# Larger shares of the bytes are no text: control characters, and bytes outside well-formed UTF-8.
MAX_CONTROL_SHARE = 0.01
MAX_MALFORMED_SHARE = 0.001
MALFORMED = re.compile("[\udc80-\udcff]")
JSON_START = re.compile(rb'\s*(?:\[\s*)?\{\s*"(?:[^"\\\n]|\\.){0,200}"\s*:')
WEB_PAGE = re.compile(rb"\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)


def check_head(head: bytes, path: str | Path, ending: str, text_key: str | None = None) -> None:
    """Raise InputError unless `head`, the first HEAD_BYTES of a file, is of the kind that a name's ending promises.

    `ending` is that of a format or of a compression. JSON records and CSV need a key or column `text_key`, unless None.
    """
    if head.startswith(LFS_POINTER):
        raise InputError(path, "is a pointer of Git LFS and not the file itself", "run git lfs pull in its repository")
    if ending in SIGNATURES:
        if not head.startswith(SIGNATURES[ending]):
            raise InputError(path, f"is no {ending} file, as its name says", "correct the name, or fetch it again")
        return
    check_text(head, path)
    head = head.removeprefix(BYTE_ORDER_MARK)
    if ending == ".jsonl":
        check_records(head, path, text_key)
    elif ending == ".csv" and text_key is not None:
        columns = next(csv.reader(head.decode("utf-8", "replace").splitlines()), [])
        if text_key not in columns:
            raise missing_key(text_key, columns, path, "the header")
    elif ending == ".txt" and JSON_START.match(head):
        remedy = "name it .jsonl if each line is a record, or write its records so: jq -c '.[]' a.json > a.jsonl"
        raise InputError(path, "holds JSON, but its name does not end in .jsonl", remedy)


def check_records(head: bytes, path: str | Path, text_key: str | None) -> None:
    """Raise InputError unless the first line of `head` is a JSON record with a text key."""
    line, end, _ = head.lstrip().partition(b"\n")
    if not line or (not end and len(head) > HEAD_BYTES - len(BYTE_ORDER_MARK) - 1):
        return  # blank, or cut
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        remedy = "write one record a line, for example by jq -c '.[]' a.json > a.jsonl"
        raise InputError(path, "does not begin with a line that is a JSON record", remedy)
    if text_key is not None and text_key not in record:
        raise missing_key(text_key, list(record), path, "the first record")


def missing_key(text_key: str, keys: list[Any], path: str | Path, where: str) -> InputError:
    """Return the error of a record or table without the key of the text; the remedy names the keys that it has."""
    names = ", ".join(map(short_repr, keys[:12]))
    remedy = f"set text_key to one of {names}" if keys else "write records with keys"
    return InputError(path, f"{where} has no {text_key!r}", remedy)


def check_text(head: bytes, path: str | Path) -> None:
    """Raise InputError unless `head`, the first HEAD_BYTES of a file, is text in UTF-8."""
    for ending, signature in SIGNATURES.items():
        if head.startswith(signature):
            remedy = f"rename it to end in {ending}, or unpack it"
            raise InputError(path, f"is a {ending} file by its content, but not by its name", remedy)
    for signature, kind in ARCHIVES.items():
        if head.startswith(signature):
            raise InputError(path, f"is {kind}", "unpack it, and name the files in it")
    if head[TAR_OFFSET:].startswith(TAR_MARK):
        raise InputError(path, "is a tar archive", "unpack it, and name the files in it")
    if encoding := wide_encoding(head):
        remedy = f"convert it: iconv -f {encoding} -t UTF-8 {Path(path).name} > {Path(path).stem}.utf8.txt"
        raise InputError(path, f"is {encoding} and not UTF-8", remedy)
    if head.startswith(b"%PDF-") or control_share(head) > MAX_CONTROL_SHARE:
        raise InputError(path, "is a binary file", "extract its text, and name that")
    check_utf8(head, path)


def check_no_web_page(head: bytes, where: str) -> None:
    """Raise InputError if a downloaded file is a web page, which a server may send in place of a file."""
    if WEB_PAGE.match(head.removeprefix(BYTE_ORDER_MARK)):
        raise InputError(where, "is a web page and not a text", "use the address of the file itself")


def wide_encoding(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 if `head` is in it, with or without a mark; None otherwise.

    Without a mark, the high byte of most characters is a small number, at every second or fourth offset.

    >>> wide_encoding("text".encode("utf-16-le")), wide_encoding("буква".encode("utf-32-be")), wide_encoding(b"text")
    ('UTF-16LE', 'UTF-32BE', None)
    """
    for mark, encoding in UNICODE_MARKS:
        if head.startswith(mark):
            return encoding
    quads = [head[offset::4] for offset in range(4)]
    zeros = [quad.count(0) > 0.9 * len(quad) > 0 for quad in quads]
    if zeros in ([False, False, True, True], [False, True, True, True]):
        return "UTF-32LE"
    if zeros in ([True, True, False, False], [True, True, True, False]):
        return "UTF-32BE"
    even, odd = control_share(head[::2]), control_share(head[1::2])
    if max(even, odd) > 0.4 and min(even, odd) < 0.1:
        return "UTF-16BE" if even > odd else "UTF-16LE"
    return None


def control_share(data: bytes) -> float:
    """Return the fraction of control characters that texts do not have."""
    return 1 - len(data.translate(None, CONTROLS)) / len(data) if data else 0.0


def check_utf8(head: bytes, path: str | Path) -> None:
    """Raise InputError if most bytes of `head` outside ASCII are malformed UTF-8, and not just a few."""
    try:
        head.decode()
        return
    except UnicodeDecodeError as error:
        if len(head) == HEAD_BYTES and error.start > HEAD_BYTES - 4:  # cut inside a character
            return
    malformed = len(MALFORMED.findall(head.decode("utf-8", "surrogateescape")))
    non_ascii = len(head) - len(head.translate(None, bytes(range(128, 256))))
    if 2 * malformed > non_ascii and malformed > MAX_MALFORMED_SHARE * len(head):
        remedy = f"convert it, for example by iconv -f WINDOWS-1252 -t UTF-8 {Path(path).name}"
        raise InputError(path, "is not UTF-8", remedy)
