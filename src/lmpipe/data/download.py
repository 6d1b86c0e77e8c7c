"""Download of one text: resumable, and in place only once its size and checksum match.

requests fetches every address; huggingface_hub supplies the token for those on the Hub. Its `hf_hub_download` (2.4) is
not used: it deletes the partial file of an interrupted call, waits forever for a server that sends a byte every nine
seconds, and refuses mirrors (HF_ENDPOINT) that lack the Hub's own headers.

`NAME.part` holds the bytes received so far, still compressed if the file is; `NAME.part.json` names their source.
"""

import contextlib
import hashlib
import math
import os
import random
import re
import shutil
import signal
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests
import urllib3

from lmpipe import __version__
from lmpipe.data.sources.first_bytes import HEAD_BYTES, check_head, check_no_web_page
from lmpipe.data.sources.readers import DamagedFileError, unpack, unpacked_blocks
from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import atomic_write, file_lock, is_same_file, refuse_non_file, sha256_of, write_all
from lmpipe.io.progress import log, progress
from lmpipe.study.text_files import HUB, TextFile, text_format

RESERVE_BYTES = 64_000_000  # disk space left for everything else that writes
RECEIVE_BYTES = 1 << 14
RETRYABLE_STATUS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
AUTH_STATUS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
CONTENT_RANGE = re.compile(r"\s*bytes (\d{1,18})-\d{1,18}/(\d{1,18})\s*")


@dataclass(frozen=True)
class RetryPolicy:
    """Limits on waiting for a server.

    An attempt ends when fewer than `window_bytes` arrive within `window_seconds`. The download is given up after
    `attempts` attempts in a row without progress, which is `window_bytes` or a hundredth of the file. Pauses double
    from `first_pause` to `max_pause` seconds, which also bounds a server's Retry-After.
    """

    attempts: int = 6
    first_pause: float = 1.0
    max_pause: float = 60.0
    window_seconds: float = 30.0
    window_bytes: int = 30_000


class RetryableError(Exception):
    """A transient network error; `retry_after` is the pause that the server requests, in seconds."""

    def __init__(self, problem: str, retry_after: float = 0.0):
        super().__init__(problem)
        self.retry_after = retry_after


class ChecksumMismatchError(InputError):
    """A complete text that is not the declared one."""


class PartialDownload(Document):
    """Source of the bytes in NAME.part (resources/NAME.part.json)."""

    url: str
    """Address as the study declares it."""
    validator: str | None
    """ETag of the published file, or its Last-Modified date."""
    total: int | None
    """Bytes of the published file, as the server announces them."""


def download(text: TextFile, path: str | Path, policy: RetryPolicy | None = None) -> None:
    """Fetch a text of a study to `path`, or check the one that is there.

    A compressed file is unpacked. Call it from the main thread only: it sets an alarm. Raises InputError if the server
    refuses, the text is not the declared one, the disk is full, or the retries are exhausted.
    """
    path = Path(path)
    if text.url is None:
        raise InputError(text.path, "is a local text, which needs no download", "name an address such as https://...")
    if already_downloaded(text, path):
        return
    part_path = path.with_name(f"{path.name}.part")
    with file_lock(part_path, f"waiting for the process that downloads {part_path}") as file:
        try:
            if not already_downloaded(text, path):  # another process may have fetched it meanwhile
                fetch_and_verify(Part(text, file), path, policy or RetryPolicy())
        finally:
            if is_same_file(part_path, file.fileno()) and not part_path.stat().st_size:
                part_path.with_name(f"{part_path.name}.json").unlink(missing_ok=True)
                part_path.unlink()


# --- verification against the study


def already_downloaded(text: TextFile, path: Path) -> bool:
    """Return True if the text is at `path`; raise InputError if another one is there, and leave it alone."""
    refuse_non_file(path)
    if not path.exists():
        return False
    verify_file(text, path)
    log(f"{path}: is there already, as declared")
    return True


def verify_file(text: TextFile, path: Path) -> None:
    """Raise InputError unless the file is the declared text."""
    otherwise = "delete it to have it downloaded, or correct the study" if text.url else "or correct the study"
    size, digest = path.stat().st_size, sha256_of(path) if text.sha256 else None
    if text_format(path.name)[1] and (text.sha256 or text.text_bytes):
        size, digest = unpacked_size(str(path))
    verify(text, str(path), size, digest, f"put the declared text there, {otherwise}")


def unpacked_size(path: str) -> tuple[int, str]:
    """Return size and SHA-256 of the content of a compressed file."""
    size, digest = 0, hashlib.sha256()
    for block in unpacked_blocks(path):
        size += len(block)
        digest.update(block)
    return size, digest.hexdigest()


def verify(text: TextFile, where: str, size: int, digest: str | None, remedy: str) -> None:
    """Raise ChecksumMismatchError unless `size` in bytes and SHA-256 are the declared ones."""
    expected = text.declared_bytes
    if not size:
        raise ChecksumMismatchError(where, "is empty", remedy)
    if expected and size != expected:
        raise ChecksumMismatchError(where, f"has {size:,} bytes of text, but {expected:,} are declared", remedy)
    if text.sha256 and digest != text.sha256:
        raise ChecksumMismatchError(where, f"has sha256 {digest}, but {text.sha256} is declared", remedy)


def check_disk_space(folder: Path, needed: int) -> None:
    """Raise InputError unless `needed` bytes and a reserve are free on the disk of a folder."""
    needed, free = needed + RESERVE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        problem = f"needs {needed:,} bytes of free disk space, but has {free:,}"
        raise InputError(folder, problem, f"free another {needed - free:,} bytes and run the same command again")


# --- attempts


def fetch_and_verify(part: "Part", path: Path, policy: RetryPolicy) -> None:
    """Complete the part, verify the text and move it to `path`.

    If a text from more than one response is wrong, the transfer may be at fault: it is fetched once more, in one go.
    """
    for is_last in (False, True):
        fetch(part, path, policy)
        try:
            finish(part, path)
            break
        except ChecksumMismatchError:
            may_be_transfer = part.is_spliced and not is_last
            part.discard()
            if not may_be_transfer:
                raise
            log(f"{part.text.url}: not the declared text after a resumed download; downloading it once more")
    log(f"{path}: {path.stat().st_size:,} bytes of text")


def fetch(part: "Part", path: Path, policy: RetryPolicy) -> None:
    """Retry until the part is complete; raise InputError when the retries are exhausted."""
    address, attempt, furthest = resolve_address(part.text), 0, part.size
    while not part.is_complete:
        try:
            fetch_once(part, address, path, policy)
        except RetryableError as error:
            # Only bytes beyond the furthest point count: a server that always starts at zero is given up, too.
            enough = min(policy.window_bytes, (part.total or math.inf) / 100)
            attempt = 1 if part.size - furthest >= enough else attempt + 1
            furthest = max(furthest, part.size)
            if attempt == policy.attempts:
                progress_text = f", {part.size:,} bytes are kept for the next call" if part.size else ""
                problem = f"{error}; given up after {attempt} attempts without progress{progress_text}"
                remedy = f"try again later, or fetch the file elsewhere and put {describe(part.text)} at {path}"
                raise InputError(address, problem, remedy) from None
            pause = policy.first_pause * 2 ** (attempt - 1) * random.uniform(1, 1.25)
            pause = min(max(pause, error.retry_after), policy.max_pause)
            then = f"attempt {attempt + 1} of {policy.attempts} in {pause:.0f} s, from byte {part.size:,}"
            log(f"{address}: {error}; {then}")
            time.sleep(pause)


def describe(text: TextFile) -> str:
    """Describe a text by its declarations, for a user who downloads it elsewhere."""
    size = f", {text.text_bytes:,} bytes" if text.text_bytes else ""
    digest = f", sha256 {text.sha256}" if text.sha256 else ""
    return f"the {'decompressed ' if text.is_compressed else ''}text{size}{digest}"


def fetch_once(part: "Part", address: str, path: Path, policy: RetryPolicy) -> None:
    """Make one request and append its body to the part; raise RetryableError unless that completes it."""
    with stall_timeout(part, policy), open_url(part, address, policy) as response:
        part.accept(response)
        left = (part.total or part.size) - part.size
        check_disk_space(path.parent, left + (part.text.text_bytes or 0) * part.text.is_compressed)
        with progress(f"downloading {path.name}", left, "bytes") as bar:
            try:
                for block in response.raw.stream(RECEIVE_BYTES, decode_content=False):
                    part.append(block)
                    bar.advance(len(block))
            except urllib3.exceptions.HTTPError as error:
                raise RetryableError(f"the connection broke ({describe_error(root_cause(error))})") from None
    part.end_is_reached = part.total is None
    if not part.is_complete:
        raise RetryableError(f"the connection was cut after {part.size:,} of {part.total:,} bytes")


@contextlib.contextmanager
def stall_timeout(part: "Part", policy: RetryPolicy) -> Iterator[None]:
    """Raise RetryableError inside the block whenever fewer than `window_bytes` arrive within `window_seconds`.

    An alarm, because the timeout of a socket restarts with each byte, and name servers and headers can be slow, too.
    """
    before = part.size

    def check_progress(*_: Any) -> None:
        nonlocal before
        if part.size - before < policy.window_bytes:
            raise RetryableError(f"fewer than {policy.window_bytes:,} bytes came in {policy.window_seconds:g} s")
        before = part.size

    previous = signal.signal(signal.SIGALRM, check_progress)
    signal.setitimer(signal.ITIMER_REAL, policy.window_seconds, policy.window_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# --- one request


def resolve_address(text: TextFile) -> str:
    """Return the address of the request: at HF_ENDPOINT, a mirror of the Hub, if the variable is set."""
    mirror = os.environ.get("HF_ENDPOINT")
    return f"{mirror.rstrip('/')}/{text.url.removeprefix(HUB)}" if mirror and text.url.startswith(HUB) else text.url


@contextlib.contextmanager
def open_url(part: "Part", address: str, policy: RetryPolicy) -> Iterator[requests.Response]:
    """Open the rest of a text; raise RetryableError for errors that may pass and InputError for others."""
    headers = {"User-Agent": f"lmpipe/{__version__}", "Accept-Encoding": "identity"} | part.range_headers()
    if part.text.url.startswith(HUB):
        from huggingface_hub import get_token

        # requests drops the header when a redirect leads to another host.
        headers |= {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    try:
        response = requests.get(address, headers=headers, stream=True, timeout=policy.window_seconds)
    except (ValueError, requests.TooManyRedirects) as error:
        raise InputError(address, f"is not an address that can be fetched ({printable(error)})", "correct it") from None
    except OSError as error:  # all others of requests
        cause = root_cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            problem = f"has a certificate that is not trusted ({cause.verify_message})"
            raise InputError(address, problem, "name your network's own in REQUESTS_CA_BUNDLE") from None
        raise RetryableError(f"no connection ({describe_error(cause)})") from None
    with response:
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise status_error(part, address, response)
        yield response


def status_error(part: "Part", address: str, response: requests.Response) -> Exception:
    """Return the error that a status code means: RetryableError, or InputError if another attempt cannot help."""
    code = response.status_code
    problem = f"the server answers {code} {printable(response.reason)}".rstrip()
    if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.discard()
    elif code in AUTH_STATUS:
        is_on_hub = part.text.url.startswith(HUB)
        remedy = "accept the dataset's terms on its page and set HF_TOKEN" if is_on_hub else "fetch the file by hand"
        return InputError(address, problem, remedy)
    elif code not in RETRYABLE_STATUS and code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return InputError(address, problem, "correct the address")
    retry_after = 0.0
    with contextlib.suppress(urllib3.exceptions.InvalidHeader):
        retry_after = float(urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    return RetryableError(problem, retry_after)


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost of nested exceptions, as requests and urllib3 raise them."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def describe_error(error: BaseException) -> str:
    """Return the reason of an error, on one line."""
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def printable(text: Any) -> str:
    r"""Make a server's words fit into one line: no control characters, at most 200 characters.

    >>> printable("not\nfound \x1b[31m")
    'not found [31m'
    """
    return "".join(filter(str.isprintable, " ".join(str(text).split())))[:200]


# --- the partial file


class Part:
    """The bytes received so far, in a locked file, and their source."""

    def __init__(self, text: TextFile, file: IO[bytes]):
        """Continue with the bytes of an earlier call if they belong to the text; otherwise start with none."""
        self.text, self.file, self.path = text, file, Path(file.name)
        self.source_path = self.path.with_name(f"{self.path.name}.json")
        self.size = os.fstat(file.fileno()).st_size
        self.is_spliced = True  # from several responses, or from one without a marked end
        self.end_is_reached = False  # of a response without a length
        self.source: PartialDownload | None = None
        with contextlib.suppress(InputError):
            self.source = PartialDownload.read(self.source_path)
        if self.source is None or self.source.url != text.url or self.size > (self.total or math.inf):
            self.discard()

    @property
    def total(self) -> int | None:
        """Bytes of the published file: as declared, else as announced; None if unknown."""
        return self.text.published_bytes or (self.source.total if self.source else None)

    @property
    def is_complete(self) -> bool:
        """True if all bytes of the published file are here."""
        return self.end_is_reached or self.size == self.total

    def range_headers(self) -> dict[str, str]:
        """Return the headers that request the missing bytes of the same file; none if nothing would reveal another."""
        validator = self.source.validator if self.source else None
        if not self.size or not (validator or self.text.sha256):
            return {}
        # A weak tag, W/"...", is not allowed in If-Range (RFC 9110, section 13.1.5).
        is_weak = not validator or validator.startswith("W/")
        return {"Range": f"bytes={self.size}-"} | ({} if is_weak else {"If-Range": validator})

    def accept(self, response: requests.Response) -> None:
        """Continue with a 206 response, or start over with a 200 one.

        Raises RetryableError for another range or file than requested, and InputError for a file of another length than
        declared, or of one without any sign by which a cut would be noticed.
        """
        headers = response.headers
        validator = headers.get("ETag") or headers.get("Last-Modified")
        # A header that continues in the next line cannot be sent back.
        validator = validator if validator and validator.isascii() and validator.isprintable() else None
        if response.status_code == HTTPStatus.OK:
            length = re.fullmatch(r"\d{1,18}", headers.get("Content-Length", ""))
            self.start_over(validator, int(length[0]) if length else None, "Transfer-Encoding" in headers)
            return
        # Without a total, a cut of the rest would look like its end.
        requested = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        start, total = map(int, requested.groups()) if requested else (0, 0)
        if not 0 < start == self.size or validator != self.source.validator or total != (self.total or total):
            self.discard()
            raise RetryableError("the server sends another range than requested, or of another file")
        self.source, self.is_spliced = self.source.model_copy(update={"total": total}), True

    def start_over(self, validator: str | None, length: int | None, end_is_marked: bool) -> None:
        """Drop the bytes so far for a response with the whole file; see `accept` for the errors."""
        url, declared = self.text.url, self.text.published_bytes
        if declared and length and length != declared:
            problem = f"has {length:,} bytes at the server, but {declared:,} are declared"
            raise InputError(url, problem, "it is another file: correct bytes in the study, or the address")
        if not (declared or length or end_is_marked or self.text.sha256 or self.text.is_compressed):
            problem = "is sent without its length, so a cut would not be noticed"
            raise InputError(url, problem, "declare bytes or sha256 in the study")
        self.discard()
        self.source = PartialDownload(url=url, validator=validator, total=length)
        self.source.write(self.source_path)
        self.is_spliced = self.total is None

    def append(self, block: bytes) -> None:
        """Append bytes; raise InputError on a full disk, RetryableError if the file grows beyond its length."""
        write_all(self.file, block, self.path, self.total)
        self.size += len(block)
        if self.total is not None and self.size > self.total:
            problem = f"the server sends more than the {self.total:,} bytes that the file has"
            self.discard()
            raise RetryableError(problem)

    def discard(self) -> None:
        """Delete the bytes so far and their source, in this order: a source never describes other bytes."""
        self.file.truncate(0)
        self.source_path.unlink(missing_ok=True)
        self.source, self.size, self.is_spliced, self.end_is_reached = None, 0, False, False


def finish(part: Part, path: Path) -> None:
    """Verify a complete part, unpack a compressed file, and move the text to `path`.

    Raises ChecksumMismatchError for a damaged file or another text than declared, InputError on a full disk or for a
    file that is no text.
    """
    text, remedy = part.text, "the published text is another one, and was removed: correct the study"
    if text.is_compressed:
        check_disk_space(path.parent, text.text_bytes or 0)
        decompress(part, path, remedy)
        part.path.unlink()
    else:
        verify(text, text.url, part.size, sha256_of(part.path) if text.sha256 else None, remedy)
        with open(part.path, "rb") as file:
            check_arrival(part, path, file.read(HEAD_BYTES))
        os.fsync(part.file.fileno())
        part.path.replace(path)
    part.source_path.unlink(missing_ok=True)


def check_arrival(part: Part, path: Path, head: bytes) -> None:
    """Discard a download and raise InputError if its first bytes, unpacked, are not what its name promises."""
    try:
        check_no_web_page(head, part.text.url)
        check_head(head, part.text.url, text_format(path.name)[0], text_key=None)
    except InputError:
        part.discard()
        raise


def decompress(part: Part, path: Path, remedy: str) -> None:
    """Write the text of a compressed file to `path` once it is verified."""
    text, size, digest, head = part.text, 0, hashlib.sha256(), b""
    name = urlsplit(text.url).path
    with open(part.path, "rb") as packed, atomic_write(path, "wb", text.text_bytes) as writer:
        try:
            for block in unpack(packed, name):
                writer.write(block)
                digest.update(block)
                size += len(block)
                head += block[: HEAD_BYTES - len(head)]
        except DamagedFileError as error:
            raise ChecksumMismatchError(text.url, error.problem, remedy) from None
        verify(text, text.url, size, digest.hexdigest(), remedy)
        check_arrival(part, path, head)
