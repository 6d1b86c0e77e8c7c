"""Downloads: a text is fetched in as many goes as it takes, checked, and only then given its name."""

import contextlib
import gzip
import hashlib
import http.client
import math
import os
import random
import shutil
import signal
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

from lmpipe import __version__
from lmpipe.data.partial_download import Part, TransientError, held_part, printable
from lmpipe.errors import InputError
from lmpipe.io.files import CHUNK_BYTES, atomic_write, sha256_of
from lmpipe.io.progress import log, progress
from lmpipe.study.schema import Corpus, TextFile, UrlCorpus

HUB = "https://huggingface.co/"
# What has to stay free on the disk, for everything else that writes to it.
RESERVE_BYTES = 64_000_000
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    A go ends when a window passes in which fewer than `window_bytes` arrive. A go that brings as much as that, or a
    hundredth of the file, is progress; after `attempts` goes without any, the download gives up. Between two goes lies
    a pause, twice as long each time; `longest_pause` also limits what a server can ask for with Retry-After.
    """

    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0
    window_seconds: float = 30.0
    window_bytes: int = 30_000

    def is_progress(self, gained: int, total: int | None) -> bool:
        """Whether a go has brought enough of a file of `total` bytes; less could go on for ever."""
        return gained >= min(self.window_bytes, (total or math.inf) / 100)


class WrongTextError(InputError):
    """A text is complete and not the one that was declared."""


def download(text: TextFile, path: str | Path, patience: Patience | None = None) -> None:
    """Fetch a text of a study unless it is there, and check it either way.

    A .gz file is decompressed. Runs in the main thread only, because it sets an alarm. Raises InputError for what the
    server refuses, for a text that is not the declared one, for a full disk, and when it gives up.
    """
    path = Path(path)
    if text.local_path is not None:
        raise InputError(f"{text.url}: expected an address, found a local text; it is read where it lies")
    if not is_there(text, path):
        with held_part(path.with_name(f"{path.name}.part")) as file:
            # Another process may have fetched it while this one waited.
            if not is_there(text, path):
                fetch_and_check(Part.kept(text, file), path, patience or Patience())


# --- what is declared of a text


def check_texts(corpus: Corpus) -> None:
    """Check the texts of a `url` corpus against their declared sizes and checksums; raise InputError if one differs."""
    if isinstance(corpus, UrlCorpus):
        for text in corpus.texts:
            check_placed(text, Path(text.path))


def is_there(text: TextFile, path: Path) -> bool:
    """Whether the text has been fetched, or placed by hand; raises InputError where another text lies there."""
    if not path.exists():
        return False
    check_placed(text, path)
    log(f"{path}: already there, and as declared")
    return True


def check_placed(text: TextFile, path: Path) -> None:
    """Raise InputError unless the file holds the declared text."""
    otherwise = "or correct the study" if text.local_path else "delete it to have it fetched, or correct the study"
    digest = sha256_of(path) if text.sha256 else None
    check_text(str(path), text, path.stat().st_size, digest, f"put the declared text there, {otherwise}")


def check_text(place: str, text: TextFile, size: int, digest: str | None, remedy: str) -> None:
    """Raise WrongTextError unless a text has the size and the checksum that are declared for it."""
    expected = text.text_bytes or (None if text.is_compressed else text.bytes)
    if expected and size != expected:
        raise WrongTextError(f"{place}: expected {expected:,} bytes of text, found {size:,}; {remedy}")
    if not size:
        raise WrongTextError(f"{place}: expected a text, found nothing; {remedy}")
    if text.sha256 and digest != text.sha256:
        raise WrongTextError(f"{place}: expected sha256 {text.sha256}, found {digest}; {remedy}")


def check_disk(folder: Path, needed: int) -> None:
    """Raise InputError unless so many bytes fit on the disk of a folder, and a reserve."""
    needed, free = needed + RESERVE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: expected {needed:,} bytes of free disk, found {free:,} ({needed - free:,} are missing); "
            "make space and give the same command again"
        )


# --- as many goes as it takes


def fetch_and_check(part: Part, path: Path, patience: Patience) -> None:
    """Complete the part, check the text, and give it its name; a doubtful transfer is made once more."""
    for is_last in (False, True):
        fetch(part, path, patience)
        try:
            finish(part, path)
        except WrongTextError:
            was_doubtful = part.is_doubtful
            part.discard()
            if is_last or not was_doubtful:
                raise
            log(f"{part.text.url}: not the declared text, nor from one go: fetched once more, from the start")
        else:
            log(f"{path}: {path.stat().st_size:,} bytes of text")
            return


def fetch(part: Part, path: Path, patience: Patience) -> None:
    """Ask until the part is complete; raises InputError when that is hopeless."""
    fruitless, furthest = 0, part.size
    while not part.is_complete:
        try:
            receive(part, path, patience)
        except TransientError as error:
            # A server that starts from zero each time must not be asked for ever: only new ground is progress.
            fruitless = 1 if patience.is_progress(part.size - furthest, part.total) else fruitless + 1
            furthest = max(furthest, part.size)
            if fruitless == patience.attempts:
                raise given_up(part, path, error, patience) from None
            pause = patience.first_pause * 2 ** (fruitless - 1) * random.uniform(1, 1.25)
            pause = min(max(pause, error.wait), patience.longest_pause)
            then = f"attempt {fruitless + 1} of {patience.attempts} in {pause:.0f} s, from byte {part.size:,}"
            log(f"{address_of(part.text)}: {error}; {then}")
            time.sleep(pause)


def given_up(part: Part, path: Path, error: TransientError, patience: Patience) -> InputError:
    """The line that ends a hopeless download: what happened last, what is kept, and how to do without."""
    text = part.text
    facts = [
        "decompressed" if text.is_compressed else "",
        f"{text.text_bytes:,} bytes" if text.text_bytes else "",
        f"sha256 {text.sha256}" if text.sha256 else "",
    ]
    known = ", ".join(filter(None, facts))
    kept = f"{part.size:,} bytes are kept, and the same command goes on; " if part.size else ""
    return InputError(
        f"{address_of(text)}: {error}; given up after {patience.attempts} attempts in a row without progress; {kept}"
        f"try again later, or fetch the file elsewhere and put the text{f' ({known})' if known else ''} at {path}"
    )


def receive(part: Part, path: Path, patience: Patience) -> None:
    """Make one request and append what it brings; raises TransientError unless that completes the part."""
    with keeping_up(part, patience), answer(address_of(part.text), part.range_headers(), patience) as response:
        part.accept(response)
        left = (part.total or part.size) - part.size
        check_disk(path.parent, left + (part.text.text_bytes or 0) * part.text.is_compressed)
        with progress(f"downloading {path.name}", left, "bytes") as shown:
            while block := next_block(response):
                part.append(block)
                shown.advance(len(block))
    part.end()


@contextlib.contextmanager
def keeping_up(part: Part, patience: Patience) -> Iterator[None]:
    """Raise TransientError in the block, wherever it waits, when a window passes in which too few bytes arrive.

    An alarm, because the timeout of a socket begins again with each byte, and names and headers can be slow, too.
    """
    before = part.size

    def look(*_: object) -> None:
        nonlocal before
        if part.size - before < patience.window_bytes:
            raise TransientError(f"fewer than {patience.window_bytes:,} bytes came in {patience.window_seconds:g} s")
        before = part.size
        signal.setitimer(signal.ITIMER_REAL, patience.window_seconds)

    previous = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, patience.window_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# --- one request


def address_of(text: TextFile) -> str:
    """Where to ask for a text: at HF_ENDPOINT, a mirror of the Hugging Face hub, where that is set."""
    mirror = os.environ.get("HF_ENDPOINT")
    if mirror and text.url.startswith(HUB):
        return f"{mirror.rstrip('/')}/{text.url.removeprefix(HUB)}"
    return text.url


@contextlib.contextmanager
def answer(address: str, headers: dict[str, str], patience: Patience) -> Iterator[http.client.HTTPResponse]:
    """A server's answer to one request; raises TransientError for what may pass, InputError for what will not."""
    headers = {"User-Agent": f"lmpipe/{__version__}", "Accept-Encoding": "identity"} | headers
    try:
        request = urllib.request.Request(address, headers=headers)
        # An opener of its own reads the environment's proxies as they are now.
        response = urllib.request.build_opener().open(request, timeout=patience.window_seconds)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            with error:
                raise refusal(address, error) from None
        response = error
    except (ValueError, http.client.InvalidURL) as error:
        cause = printable(str(error))
        raise InputError(f"{address}: expected an address to ask, found none ({cause}); correct it") from None
    except (OSError, http.client.HTTPException) as error:
        raise no_connection(address, error) from None
    with response:
        yield response


def refusal(address: str, error: urllib.error.HTTPError) -> Exception:
    """What an answer that is no file means: TransientError or InputError."""
    said = f"the server answers {error.code} {printable(str(error.reason))}"
    if error.code in PASSING or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransientError(said, retry_after(error.headers.get("Retry-After")))
    remedy = "access is refused" if error.code in REFUSED else "correct the address"
    return InputError(f"{address}: {said}; {remedy}")


def retry_after(value: str | None) -> float:
    """The seconds that a Retry-After header asks for; 0 where it asks for nothing that can be understood.

    >>> retry_after("120"), retry_after("soon"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
    (120.0, 0.0, 0.0)
    """
    if value and value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    return 0.0


def no_connection(address: str, error: Exception) -> Exception:
    """What a connection that could not be made means: TransientError, but for a certificate that is not trusted."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return InputError(
            f"{address}: expected a trusted certificate, found another ({cause.verify_message}); "
            "name your network's own in SSL_CERT_FILE"
        )
    if isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError):
        return TransientError(f"the server does not speak HTTP ({type(cause).__name__})")
    return TransientError(f"no connection ({getattr(cause, 'strerror', None) or cause})")


def next_block(response: http.client.HTTPResponse) -> bytes:
    """The bytes that have arrived; none at the end, or after a clean cut; raises TransientError for a broken one."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"the connection broke ({getattr(error, 'strerror', None) or error})") from None


# --- the text of a complete part


def finish(part: Part, path: Path) -> None:
    """Check a complete part and give the text its name.

    Raises WrongTextError for what is damaged or not the declared text, and InputError on a full disk.
    """
    remedy = "the published text is another one, and was removed; correct the study"
    text = part.text
    if text.is_compressed:
        check_disk(path.parent, text.text_bytes or 0)
        decompress(part, path, remedy)
        part.path.unlink()
    else:
        check_text(text.url, text, part.size, sha256_of(part.path) if text.sha256 else None, remedy)
        os.fsync(part.file.fileno())
        part.path.replace(path)
    part.record_path.unlink(missing_ok=True)


def decompress(part: Part, path: Path, remedy: str) -> None:
    """Write the text of a .gz file, of one member or several, under its name once it is checked."""
    text, size, digest = part.text, 0, hashlib.sha256()
    try:
        with gzip.open(part.path) as reader, atomic_write(path, "wb", text.text_bytes) as writer:
            while block := reader.read(CHUNK_BYTES):
                writer.write(block)
                digest.update(block)
                size += len(block)
            check_text(text.url, text, size, digest.hexdigest(), remedy)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WrongTextError(f"{text.url}: expected gzip, found damage ({error}); {remedy}") from None
