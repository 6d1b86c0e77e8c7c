"""The part of a published file that has been fetched: its bytes, and the record of what they belong to.

`NAME.part` holds the bytes as they are published (those of a .gz file still compressed); `NAME.part.json` says of which
file they are: the address, and the server's ETag, date and length. The next go asks for the rest only, and starts anew
where the published file has become another one.
"""

import contextlib
import http.client
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from lmpipe.errors import InputError
from lmpipe.io.files import DISK_FULL_ERRNOS, disk_error, write_json
from lmpipe.io.locks import file_lock, is_same_file
from lmpipe.study.documents import PART, read_shape
from lmpipe.study.schema import TextFile

LONGEST_SAYING = 200
# Longer numbers are no lengths.
NUMBER = r"(\d{1,18})"


class TransientError(Exception):
    """What may pass: a connection that could not be made or was cut, a busy server; `wait` is what it asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(printable(reason))
        self.wait = wait


def printable(said: str) -> str:
    r"""What a server says, as a part of one line: no control characters, and not all of a long tale.

    >>> printable("not\nfound \x1b[31m")
    'not found [31m'
    """
    return "".join(filter(str.isprintable, " ".join(said.split())))[:LONGEST_SAYING]


@contextlib.contextmanager
def held_part(path: Path) -> Iterator[IO[bytes]]:
    """Open a part for this process alone; another one that wants it waits. One that stays empty is removed."""
    with file_lock(path, f"waiting for the process that fetches {path}") as file:
        try:
            yield file
        finally:
            if is_same_file(path, file.fileno()) and not path.stat().st_size:
                record_path(path).unlink(missing_ok=True)
                path.unlink()


def record_path(part_path: Path) -> Path:
    """Where it is written of which file a part is."""
    return part_path.with_name(f"{part_path.name}.json")


def as_sent_back(header: str | None) -> str | None:
    """The value of a header, where a request can hold it."""
    return header if header and header.isascii() and header.isprintable() else None


@dataclass
class Part:
    """The published bytes, as far as they have come, in a file that is held alone."""

    text: TextFile
    file: IO[bytes]
    record: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    # Put together from several answers, or of a length that nobody announced: where the check fails, the published
    # text may be right and only the transfer wrong.
    is_doubtful: bool = False

    @classmethod
    def kept(cls, text: TextFile, file: IO[bytes]) -> "Part":
        """What an earlier go has left, where it can be used; nothing otherwise."""
        part = cls(text, file, size=os.fstat(file.fileno()).st_size, is_doubtful=True)
        with contextlib.suppress(InputError):
            record = read_shape(part.record_path, PART)
            part.record = record if record["url"] == text.url else {}
        is_too_long = part.total is not None and part.size > part.total
        if is_too_long or not (part.record or part.is_complete):
            part.discard()
        return part

    @property
    def path(self) -> Path:
        """Where the bytes lie."""
        return Path(self.file.name)

    @property
    def record_path(self) -> Path:
        """Where it is written of which file they are."""
        return record_path(self.path)

    @property
    def total(self) -> int | None:
        """Bytes of the published file: as declared, else as the server says; None where nobody does."""
        return self.text.published_bytes or self.record.get("total")

    @property
    def is_complete(self) -> bool:
        """Whether all of it is here."""
        return self.size == self.total

    def range_headers(self) -> dict[str, str]:
        """The headers that ask for the rest only, provided that the file is still the same."""
        tag = self.record.get("etag") or ""
        # A weak tag (W/"...") may not stand here (RFC 9110, section 13.1.5).
        same = tag if tag.startswith('"') else self.record.get("last_modified")
        if not self.size or not (tag or same or self.text.sha256):
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": same} if same else {})

    def accept(self, response: http.client.HTTPResponse) -> None:
        """Go on with an answer, or start anew with it.

        Raises TransientError for one that fits neither, and InputError for a file of another length than declared.
        """
        start, offer = self.offer(response)
        if response.status == HTTPStatus.PARTIAL_CONTENT and 0 < start == self.size and self.belongs_to(offer):
            self.is_doubtful = True
            self.record["total"] = self.total or offer["total"]
        elif response.status == HTTPStatus.OK:
            self.begin(offer, ends_are_marked=bool(response.chunked))
        else:
            self.discard()
            raise TransientError(
                f"the server answers {response.status} with another range than asked for, or of another file"
            )

    def begin(self, offer: dict[str, Any], ends_are_marked: bool) -> None:
        """Start anew with an answer that brings the whole file; raises InputError where it cannot be the declared one.

        Where the answer gives no length, only its mark, a declaration or gzip can tell a whole text from one that was
        cut.
        """
        declared, total = self.text.published_bytes, offer["total"]
        if declared and total and total != declared:
            raise InputError(
                f"{self.text.url}: expected {declared:,} bytes as declared, the server has {total:,}; "
                "it is another file: correct bytes in the study, or the address"
            )
        if not (declared or total or ends_are_marked or self.text.sha256 or self.text.is_compressed):
            raise InputError(
                f"{self.text.url}: expected a length, the server gives none, so that a cut would not be noticed; "
                "declare bytes or sha256 in the study"
            )
        self.discard()
        self.record = offer
        self.is_doubtful = self.total is None
        write_json(self.record_path, offer)

    def offer(self, response: http.client.HTTPResponse) -> tuple[int, dict[str, Any]]:
        """The byte at which an answer begins, and the record of the file that it is of."""
        headers = response.headers
        start, total = 0, re.fullmatch(NUMBER, headers.get("Content-Length", "").strip())
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            found = headers.get("Content-Range", "").strip()
            begin = re.match(rf"bytes {NUMBER}-", found)
            start, total = int(begin[1]) if begin else -1, re.search(rf"/{NUMBER}$", found)
        return start, {
            "url": self.text.url,
            "etag": as_sent_back(headers.get("ETag")),
            "last_modified": as_sent_back(headers.get("Last-Modified")),
            "total": int(total[1]) if total else None,
        }

    def belongs_to(self, offer: dict[str, Any]) -> bool:
        """Whether the bytes so far go with the file that is offered now, as far as the server tells.

        Where it tells nothing, only a checksum could find two files in one, so that it takes one to go on. Without a
        total, the end of the rest could be a cut.
        """
        known = [key for key in ("etag", "last_modified", "total") if self.record.get(key) and offer[key]]
        is_sure = self.text.sha256 or "etag" in known or "last_modified" in known
        has_an_end = self.total or offer["total"]
        return bool(is_sure and has_an_end) and all(self.record[key] == offer[key] for key in known)

    def append(self, block: bytes) -> None:
        """Append bytes; raises InputError on a full disk, TransientError where the file grows beyond its length."""
        rest = memoryview(block)
        while rest:
            try:
                written = self.file.write(rest)
            except OSError as error:
                raise (
                    disk_error(error, self.path, self.size, self.total) if error.errno in DISK_FULL_ERRNOS else error
                ) from None
            self.size += written
            rest = rest[written:]
        if self.total is not None and self.size > self.total:
            announced = f"more than the {self.total:,} bytes that the file has"
            self.discard()
            raise TransientError(f"the server sends {announced}")

    def end(self) -> None:
        """Take the end of an answer for the end of the file unless more is known; raises TransientError for a cut."""
        if self.total is None:
            self.record["total"] = self.size
        if not self.is_complete:
            raise TransientError(f"the connection was cut after {self.size:,} of {self.total:,} bytes")

    def discard(self) -> None:
        """Start anew, from nothing."""
        # In this order: a record never stands beside bytes that it is not of.
        self.file.truncate(0)
        self.record_path.unlink(missing_ok=True)
        self.record, self.size, self.is_doubtful = {}, 0, False
