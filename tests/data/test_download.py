"""Downloads from a server on this machine that cuts, stalls, refuses and lies."""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import re
import resource
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.data import download as download_module
from lmpipe.data.download import Patience
from lmpipe.errors import InputError
from lmpipe.study.schema import TextFile

ROOT = Path(__file__).parents[2]
# No two kilobytes alike, so that bytes at a wrong place are wrong bytes; hardly shorter when compressed.
TEXT = b"".join(
    hashlib.sha256(b"%d" % number).hexdigest().encode() + "\nZoë <|endoftext|>\n".encode() for number in range(1000)
)
OTHER = TEXT[::-1]
PUBLISHED = {"text.txt": TEXT, "text.txt.gz": gzip.compress(TEXT, mtime=0)}
CUT = 20_000
QUICK = Patience(attempts=3, first_pause=0.01, longest_pause=0.05, window_seconds=0.4, window_bytes=2000)
both = pytest.mark.parametrize("name", PUBLISHED)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def serve(
    body,
    cut=None,
    etag='"first"',
    modified=None,
    ranges=True,
    length=None,
    content_range=None,
    chunked=False,
    step=1000,
    pause=0.0,
    fast=0,
    headers=(),
):
    """An answer with a body, as a good server gives it but for what is named: a function of the request's handler.

    `cut` closes the connection after so many bytes; `pause` waits before each `step` of bytes, but for the
    first `fast` ones; `length` and `content_range` take the place of the true headers (an empty length is left out).
    """

    def answer(handler):
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
        same = handler.headers.get("If-Range")
        start = int(wanted[1]) if wanted and same in (None, etag, modified) else 0
        if start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", content_range or f"bytes {start}-{len(body) - 1}/{len(body)}")
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif length != "":
            handler.send_header("Content-Length", str(length or len(body) - start))
        for name, value in [("ETag", etag), ("Last-Modified", modified), *headers]:
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        stop = min(len(body), start + cut) if cut else len(body)
        for position in range(start, stop, step):
            time.sleep(pause if position >= start + fast else 0)
            block = body[position : min(position + step, stop)]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
        if chunked and not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


def refuse(code, **headers):
    """An answer without a file."""

    def answer(handler):
        handler.send_response(code)
        for name, value in {"Content-Length": 0, **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    return answer


def stall(handler):
    """Nothing at all, for longer than anyone waits."""
    time.sleep(3)
    handler.close_connection = True


def trickle(handler):
    """A header without end, a few bytes at a time."""
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " if _ == 0 else b"x")
            time.sleep(0.05)
    handler.close_connection = True


def babble(handler):
    """Something that is not HTTP, and no good in a terminal."""
    handler.wfile.write(bytes(range(256)) * 10)
    handler.close_connection = True


def hang_up(handler):
    """The connection is closed without an answer."""
    handler.close_connection = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        script = self.server.script
        with contextlib.suppress(OSError):
            (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Gives the answers of its script in turn, the last one again and again, and remembers what was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.script = [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def asked_from(self):
        """The byte from which each request wanted the file."""
        return [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in self.requests]


@pytest.fixture
def server():
    with Server() as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "resources" / "0123456789ab-text.txt"


def names(path):
    """What lies in the folder, by what follows the text's own name."""
    return sorted(entry.name.removeprefix(path.name) for entry in path.parent.iterdir()) if path.parent.exists() else []


def download(settings, path, patience=None):
    """Fetch what a study may say of a text."""
    download_module.download(TextFile.model_validate(settings), path, patience)


def fails(settings, path, patience=QUICK):
    """The one line with which a download fails; nothing is there under the right name."""
    with pytest.raises(InputError) as caught:
        download(settings, path, patience)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


def whole(server, name, **more):
    """What a study may say of a text."""
    facts = {"bytes": len(PUBLISHED[name]), "sha256": sha256(TEXT), "text_bytes": len(TEXT)}
    return {"url": f"{server.url}/{name}", **facts, **more}


def leave_part(server, path, name, declared=()):
    """Let a first call be cut, so that it leaves a part; what is declared is told by its keys."""
    settings = {key: value for key, value in whole(server, name).items() if key in ("url", *declared)}
    server.script[:] = [serve(PUBLISHED[name], cut=CUT), hang_up]
    assert f"{CUT:,} bytes are kept" in fails(settings, path, Patience(attempts=2, first_pause=0))
    assert names(path) == [".part", ".part.json"]
    server.requests.clear()
    return settings


# --- the straight way


@both
@pytest.mark.parametrize("declared", [(), ("bytes", "sha256", "text_bytes")], ids=["undeclared", "declared"])
def test_a_download_is_the_text_itself(server, path, name, declared):
    server.script = [serve(PUBLISHED[name])]
    settings = {key: value for key, value in whole(server, name).items() if key in ("url", *declared)}
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert path.stat().st_mode & 0o777 == 0o666 & ~downloads_umask()
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def downloads_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_text_that_is_there_is_checked_and_not_fetched(server, path, capsys):
    path.parent.mkdir()
    path.write_bytes(TEXT)
    download(whole(server, "text.txt.gz"), path)
    assert "already there" in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize(("text", "found"), [(TEXT[:-1], "bytes of text, found"), (OTHER, "found " + sha256(OTHER))])
def test_another_text_that_is_there_is_told_and_stays(server, path, text, found):
    path.parent.mkdir()
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"{found}.*; put the declared text there, delete it to have it fetched, or"):
        download(whole(server, "text.txt"), path)
    assert path.read_bytes() == text
    assert server.requests == []


# --- cuts


@both
def test_a_cut_is_resumed_where_it_was(server, path, name):
    server.script = [serve(PUBLISHED[name], cut=CUT), serve(PUBLISHED[name])]
    download({"url": whole(server, name)["url"]}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.asked_from() == [0, CUT]
    assert server.requests[1][1]["If-Range"] == '"first"'


@both
def test_a_later_call_goes_on_with_the_kept_part(server, path, name):
    settings = leave_part(server, path, name)
    server.script = [serve(PUBLISHED[name])]
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.asked_from() == [CUT]


def test_cuts_with_progress_between_them_are_no_reason_to_give_up(server, path):
    server.script = [serve(TEXT, cut=1000)]
    download(whole(server, "text.txt"), path, QUICK)
    assert path.read_bytes() == TEXT
    assert len(server.requests) > 5 * QUICK.attempts


def test_cuts_without_progress_are(server, path):
    server.script = [serve(TEXT, cut=CUT), hang_up]
    message = fails(whole(server, "text.txt"), path)
    assert f"given up after {QUICK.attempts} attempts in a row without progress; {CUT:,} bytes are kept" in message
    assert len(server.requests) == QUICK.attempts
    assert names(path) == [".part", ".part.json"]


def test_a_server_without_ranges_is_asked_for_the_whole_again(server, path):
    server.script = [serve(TEXT, cut=CUT, ranges=False), serve(TEXT, ranges=False)]
    download(whole(server, "text.txt"), path, QUICK)
    assert path.read_bytes() == TEXT


def test_a_server_without_ranges_that_always_cuts_is_given_up(server, path):
    server.script = [serve(TEXT, cut=CUT, ranges=False)]
    assert f"cut after {CUT:,} of {len(TEXT):,} bytes; given up" in fails(whole(server, "text.txt"), path)


def wait_for(condition):
    """Wait until something is so, as it will be on any machine."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def started_download(settings, path):
    """The same download in a process of its own, which says on standard error what it does."""
    command = [
        sys.executable,
        "-m",
        "lmpipe.cli.main",
        "download",
        "--settings",
        json.dumps(settings),
        "--output",
        path,
    ]
    return subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("reached", [1, CUT])
def test_a_killed_download_goes_on(server, path, reached):
    server.script = [serve(TEXT, pause=0.01)]
    part = path.with_name(f"{path.name}.part")
    with started_download(whole(server, "text.txt"), path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size >= reached)
        process.kill()
    assert not path.exists()
    kept = part.stat().st_size
    server.requests.clear()
    server.script = [serve(TEXT)]
    download(whole(server, "text.txt"), path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.asked_from() == [kept]


def test_of_two_calls_at_once_one_fetches(server, path):
    both_are_here = threading.Event()

    def when_both_are_here(handler):
        both_are_here.wait(60)
        serve(TEXT)(handler)

    server.script = [when_both_are_here]
    first = started_download(whole(server, "text.txt"), path)
    wait_for(lambda: server.requests)
    second = started_download(whole(server, "text.txt"), path)
    assert "waiting for the process that fetches" in second.stderr.readline()
    both_are_here.set()
    assert "bytes of text" in first.communicate()[1]
    assert "already there" in second.communicate()[1]
    assert [first.returncode, second.returncode] == [0, 0]
    assert server.asked_from() == [0]
    assert path.read_bytes() == TEXT
    assert names(path) == [""]


# --- servers that make one wait


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server, path, code):
    server.script = [refuse(code), refuse(code), serve(TEXT)]
    download(whole(server, "text.txt"), path, QUICK)
    assert path.read_bytes() == TEXT


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_says_when_within_reason(server, path, monkeypatch, capsys, code):
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server.script = [refuse(code, Retry_After=7), refuse(code, Retry_After=86400), refuse(code), serve(TEXT)]
    download(whole(server, "text.txt"), path, Patience(longest_pause=20))
    assert pauses[:2] == [7, 20]
    assert 4 <= pauses[2] <= 5
    assert f"the server answers {code} " in capsys.readouterr().err


def test_pauses_grow(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server.script = [refuse(503)]
    message = fails(whole(server, "text.txt"), path, Patience())
    assert "the server answers 503 Service Unavailable; given up after 6 attempts" in message
    assert pauses == sorted(pauses) and len(pauses) == 5 and 31 <= sum(pauses) <= 31 * 1.25
    assert names(path) == []


@pytest.mark.parametrize(
    "slow",
    [stall, trickle, serve(TEXT, pause=1), serve(TEXT, step=10, pause=0.05)],
    ids=["silent", "endless header", "header only", "slow"],
)
def test_a_slow_server_is_given_up_in_bounded_time(server, path, slow):
    server.script = [slow]
    started = time.monotonic()
    message = fails(whole(server, "text.txt"), path)
    assert "fewer than 2,000 bytes came in 0.4 s; given up" in message or "no connection (timed out)" in message
    assert time.monotonic() - started < QUICK.attempts * (2 * QUICK.window_seconds + 1)
    assert names(path) in ([], [".part", ".part.json"])


def test_a_server_that_becomes_slow_or_falls_silent_is_asked_again(server, path):
    server.script = [serve(TEXT, step=100, pause=0.2, fast=CUT), stall, serve(TEXT)]
    download(whole(server, "text.txt"), path, QUICK)
    assert path.read_bytes() == TEXT
    _, second, third = server.asked_from()
    assert CUT <= second == third < CUT + QUICK.window_bytes


# --- servers that refuse


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (401, "access is refused"),
        (403, "access is refused"),
        (404, "correct the address"),
        (410, "correct the address"),
    ],
)
def test_a_refusal_is_told_at_once_and_costs_nothing(server, path, code, remedy):
    settings = leave_part(server, path, "text.txt")
    server.script = [refuse(code)]
    message = fails(settings, path)
    assert message.startswith(f"{settings['url']}: the server answers {code} ") and message.endswith(f"; {remedy}")
    assert len(server.requests) == 1
    assert names(path) == [".part", ".part.json"], "what was fetched before the refusal is kept"
    shutil.rmtree(path.parent)
    fails(settings, path)
    assert names(path) == []


def test_redirects_lead_to_the_file_and_do_not_lose_the_range(server, path):
    there = refuse(302, Location="/elsewhere")
    server.script = [there, serve(TEXT, cut=CUT), there, serve(TEXT)]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, 0, CUT, CUT]
    assert server.requests[3][0] == "/elsewhere"
    assert server.requests[3][1]["If-Range"] == '"first"'


def test_redirects_in_a_circle_are_one_line(server, path):
    server.script = [refuse(302, Location="/text.txt")]
    assert "infinite loop" in fails(whole(server, "text.txt"), path)


# --- servers that lie


@both
def test_a_file_that_changes_is_fetched_anew(server, path, name):
    server.script = [serve(OTHER, cut=CUT, etag='"old"'), serve(PUBLISHED[name], etag='"new"')]
    download({"url": whole(server, name)["url"]}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, CUT]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"etag": 'W/"old"'}, {"etag": 'W/"new"'}),
        ({"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"etag": None, "modified": "tomorrow"}),
        ({"etag": '"old"'}, {"etag": None}),
    ],
    ids=["weak tag", "date", "no tag any more"],
)
def test_a_change_is_seen_though_the_server_goes_on(server, path, old, new):
    careless = serve(TEXT, **new)

    def ignoring_if_range(handler):
        del handler.headers["If-Range"]
        careless(handler)

    server.script = [serve(OTHER, cut=CUT, **old), ignoring_if_range]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, CUT, 0]


@both
def test_a_change_that_nothing_tells_is_found_by_the_checksum(server, path, name, capsys):
    body = PUBLISHED[name]
    server.script = [serve(body[::-1], cut=CUT, etag=None), serve(body, etag=None)]
    settings = {"url": whole(server, name)["url"], "sha256": sha256(TEXT)}
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.asked_from() == [0, CUT, 0]
    assert "fetched once more, from the start" in capsys.readouterr().err


def test_where_no_change_would_be_found_nothing_is_resumed(server, path):
    server.script = [serve(OTHER, cut=CUT, etag=None), serve(TEXT, etag=None)]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, 0]


@both
def test_another_text_than_declared_leaves_nothing(server, path, name):
    server.script = [serve(PUBLISHED[name])]
    message = fails({"url": whole(server, name)["url"], "sha256": "0" * 64}, path)
    assert f"expected sha256 {'0' * 64}, found {sha256(TEXT)}; the published text is another one" in message
    assert names(path) == []
    assert len(server.requests) == 1


def test_another_text_than_declared_is_fetched_twice_at_most(server, path):
    server.script = [serve(OTHER, cut=CUT)]
    assert "expected sha256" in fails(whole(server, "text.txt"), path)
    assert names(path) == []
    assert server.asked_from().count(0) == 2


def test_another_length_than_declared_is_refused_before_a_byte_is_kept(server, path):
    settings = leave_part(server, path, "text.txt", ["bytes"])
    server.script = [serve(TEXT[:-1], ranges=False)]
    message = fails(settings, path)
    assert f"expected {len(TEXT):,} bytes as declared, the server has {len(TEXT) - 1:,}; it is another file" in message
    assert names(path) == [".part", ".part.json"]
    assert path.with_name(f"{path.name}.part").read_bytes() == TEXT[:CUT]


def test_another_length_of_the_text_than_declared_leaves_nothing(server, path):
    server.script = [serve(PUBLISHED["text.txt.gz"])]
    message = fails({"url": f"{server.url}/text.txt.gz", "text_bytes": 5}, path)
    assert f"expected 5 bytes of text, found {len(TEXT):,}; the published text is another one" in message
    assert names(path) == []


def test_a_length_beyond_the_end_is_given_up(server, path):
    server.script = [serve(TEXT, length=len(TEXT) + 10)]
    fails({"url": f"{server.url}/text.txt"}, path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_length_before_the_end_is_found_by_the_check(server, path, name):
    server.script = [serve(PUBLISHED[name], length=CUT)]
    message = fails({"url": whole(server, name)["url"], "sha256": sha256(TEXT)}, path)
    assert ("expected gzip, found damage" if name.endswith(".gz") else "expected sha256") in message
    assert names(path) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (babble, "the server does not speak HTTP (BadStatusLine)"),
        (hang_up, "no connection (Remote end closed connection without response)"),
        (serve(TEXT, length="9" * 5000), "expected a length, the server gives none"),
    ],
    ids=["babble", "nothing", "absurd length"],
)
def test_an_answer_that_makes_no_sense_is_one_printable_line(server, path, answer, said):
    server.script = [answer]
    message = fails({"url": f"{server.url}/text.txt"}, path)
    assert said in message
    assert message.isprintable()


def test_validators_that_cannot_be_sent_back_are_none(server, path):
    """A header may go on in the next line, which a request must not repeat."""
    server.script = [serve(OTHER, cut=CUT, etag='"a\r\n b"', modified="é"), serve(TEXT)]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, 0]


@pytest.mark.parametrize(
    "content_range",
    [f"bytes {CUT + 9}-{len(TEXT) - 1}/{len(TEXT)}", f"bytes {CUT}-99/{2 * len(TEXT)}", "bytes", "lines 1-2/3"],
)
def test_a_range_that_was_not_asked_for_is_not_appended(server, path, content_range):
    server.script = [serve(TEXT, cut=CUT), serve(TEXT, content_range=content_range), serve(TEXT)]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == [0, CUT, 0]


def test_more_bytes_than_declared_are_not_taken(server, path):
    server.script = [serve(TEXT + OTHER, chunked=True)]
    message = fails(whole(server, "text.txt"), path)
    assert f"the server sends more than the {len(TEXT):,} bytes" in message
    assert names(path) == []


def test_a_whole_text_without_a_length_is_known_by_its_last_chunk(server, path):
    server.script = [serve(TEXT, chunked=True, cut=CUT), serve(TEXT, chunked=True)]
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert path.read_bytes() == TEXT


@pytest.mark.parametrize("of", [f"/{len(TEXT)}", "/*"])
def test_the_rest_of_a_text_without_a_length_is_no_end_in_itself(server, path, of):
    settings = {"url": f"{server.url}/text.txt"}
    rest = serve(TEXT, cut=CUT, content_range=f"bytes {CUT}-{len(TEXT) - 1}{of}")
    server.script = [serve(TEXT, chunked=True, cut=CUT), rest, serve(TEXT)]
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert server.asked_from() == ([0, CUT, 0] if of == "/*" else [0, CUT, 2 * CUT])


def test_without_length_and_chunks_something_must_be_declared(server, path):
    server.script = [serve(TEXT, length="")]
    assert "expected a length, the server gives none" in fails({"url": f"{server.url}/text.txt"}, path)
    assert names(path) == []


@both
def test_a_cut_that_looks_like_the_end_is_found_by_the_checksum(server, path, name):
    server.script = [serve(PUBLISHED[name], length="", cut=CUT), serve(PUBLISHED[name], length="")]
    download({"url": whole(server, name)["url"], "sha256": sha256(TEXT)}, path, QUICK)
    assert path.read_bytes() == TEXT


def test_an_empty_text_is_none(server, path):
    server.script = [serve(gzip.compress(b""))]
    assert "expected a text, found nothing" in fails({"url": f"{server.url}/text.txt.gz"}, path)
    assert names(path) == []


# --- gzip

MEMBERS = gzip.compress(TEXT[:9999]) + gzip.compress(TEXT[9999:])
FLIPPED = bytearray(PUBLISHED["text.txt.gz"])
FLIPPED[CUT] ^= 1


@pytest.mark.parametrize("body", [MEMBERS, PUBLISHED["text.txt.gz"] + bytes(512)], ids=["two members", "padded"])
def test_gzip_of_several_members_or_padded_is_one_text(server, path, body):
    server.script = [serve(body)]
    download({"url": f"{server.url}/text.txt.gz", "sha256": sha256(TEXT)}, path, QUICK)
    assert path.read_bytes() == TEXT


@pytest.mark.parametrize(
    "body",
    [
        bytes(FLIPPED),
        PUBLISHED["text.txt.gz"][:-5],
        PUBLISHED["text.txt.gz"] + b"garbage",
        b"<html>Please log in</html>",
    ],
    ids=["flipped bit", "shortened", "trailing garbage", "a page"],
)
def test_damaged_gzip_is_one_line_and_the_next_call_starts_clean(server, path, body):
    server.script = [serve(body)]
    message = fails({"url": f"{server.url}/text.txt.gz"}, path)
    assert "expected gzip, found damage (" in message and "was removed" in message
    assert names(path) == []
    server.script = [serve(PUBLISHED["text.txt.gz"])]
    download({"url": f"{server.url}/text.txt.gz"}, path, QUICK)
    assert path.read_bytes() == TEXT


# --- parts that were left behind


@pytest.mark.parametrize(
    ("part", "record"),
    [
        (TEXT + b"more", True),
        (OTHER[:CUT], None),
        (OTHER[:CUT], "{damaged"),
        (OTHER[:CUT], "[]"),
        (OTHER[:CUT], json.dumps({"url": "https://a.example/x", "etag": None, "last_modified": None, "total": None})),
        (OTHER, True),
        (b"", True),
    ],
    ids=["too long", "no record", "damaged record", "strange record", "another address", "whole but wrong", "empty"],
)
def test_a_part_that_cannot_be_used_is_no_harm(server, path, part, record):
    settings = leave_part(server, path, "text.txt", ["sha256"])
    path.with_name(f"{path.name}.part").write_bytes(part)
    if record is not True:
        path.with_name(f"{path.name}.part.json").write_text(record) if record else path.with_name(
            f"{path.name}.part.json"
        ).unlink()
    server.script = [serve(TEXT)]
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.asked_from() == [0]


@both
def test_a_part_that_is_whole_needs_no_server(server, path, name):
    settings = leave_part(server, path, name)
    path.with_name(f"{path.name}.part").write_bytes(PUBLISHED[name])
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]
    assert server.requests == []


# --- the disk


@both
def test_a_disk_that_is_too_small_is_told_before_the_first_byte(server, path, monkeypatch, name):
    left = len(PUBLISHED[name]) - CUT
    needed = left + download_module.RESERVE_BYTES + (len(TEXT) if name.endswith(".gz") else 0)
    settings = leave_part(server, path, name, ["text_bytes"])
    server.script = [serve(PUBLISHED[name])]
    usage = shutil.disk_usage(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
        message = fails(settings, path)
    assert f"{path.parent}: expected {needed:,} bytes of free disk, found {needed - 1:,} (1 are missing)" in message
    assert path.with_name(f"{path.name}.part").stat().st_size == CUT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    download(settings, path, QUICK)
    assert path.read_bytes() == TEXT


@pytest.mark.parametrize(("name", "kept"), [("text.txt", 30_000), ("text.txt.gz", len(PUBLISHED["text.txt.gz"]))])
def test_a_disk_that_fills_in_the_middle_costs_nothing(server, path, name, kept):
    """A limit on the size of files stands for the disk: the part fills it, or the decompressed text."""
    server.script = [serve(PUBLISHED[name])]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(kept + 20, 80_000), hard))
    try:
        message = fails(whole(server, name), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make space and give the same command again" in message
    part = path.with_name(f"{path.name}.part")
    assert names(path) == [".part", ".part.json"]
    assert part.read_bytes() == PUBLISHED[name][: part.stat().st_size]
    assert part.stat().st_size >= kept
    download(whole(server, name), path, QUICK)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]


# --- the way to the server


def test_an_offline_machine_is_told_where_to_put_the_text(path):
    with Server() as closed:
        settings = whole(closed, "text.txt.gz")
    message = fails(settings, path)
    assert message.startswith(f"{settings['url']}: no connection (Connection refused); given up after 3 attempts")
    assert message.endswith(
        "fetch the file elsewhere and put the text "
        f"(decompressed, {len(TEXT):,} bytes, sha256 {sha256(TEXT)}) at {path}"
    )
    assert names(path) == []
    path.write_bytes(TEXT)
    download(settings, path)


def test_a_name_that_nobody_knows_is_no_connection(path):
    assert "no connection (" in fails({"url": "http://nowhere.invalid/text.txt"}, path)


def test_a_mirror_of_the_hub_is_asked_instead(server, path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub/")
    server.script = [serve(TEXT)]
    download({"url": "https://huggingface.co/datasets/x/resolve/main/text.txt", "sha256": sha256(TEXT)}, path, QUICK)
    assert [request for request, _ in server.requests] == ["/hub/datasets/x/resolve/main/text.txt"]
    server.requests.clear()
    path.unlink()
    download({"url": f"{server.url}/text.txt"}, path, QUICK)
    assert [request for request, _ in server.requests] == ["/text.txt"]


def test_a_proxy_is_used_where_the_environment_names_one(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.script = [serve(TEXT)]
    download({"url": "http://texts.invalid/text.txt"}, path, QUICK)
    assert [request for request, _ in server.requests] == ["http://texts.invalid/text.txt"]
    assert path.read_bytes() == TEXT
    monkeypatch.setenv("no_proxy", "texts.invalid")
    path.unlink()
    assert "no connection (" in fails({"url": "http://texts.invalid/text.txt"}, path)


@pytest.mark.parametrize("mirror", ["hub.example", "http://127.0.0.1:port", "http://höb .example/a b", "https://.x"])
def test_a_mirror_that_is_no_address_is_one_line(path, monkeypatch, mirror):
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    message = fails({"url": "https://huggingface.co/text.txt"}, path)
    assert message.startswith(f"{mirror}/text.txt: expected an address to ask, found none (")
    assert names(path) == []


def test_a_certificate_that_is_not_trusted_is_not_tried_again():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    told = download_module.no_connection("https://example.org/text.txt", URLError(error))
    assert isinstance(told, InputError)
    assert "expected a trusted certificate, found another (self-signed certificate); name" in str(told)


# --- in the workflow


class Workflow:
    """A small study whose one corpus is downloaded, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "resources" / f"{sha256(TEXT)[:12]}-text.txt"

    def write(self, name, text):
        study = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
        corpus = {"source": "url", "files": [text], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
        study |= {"study": name, "corpora": {"mine": corpus}, "accounting": {}}
        study |= {"experiments": {"main_experiment": {"runs": {"mine": {"corpus": "mine"}}}}}
        del study["samples"]
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")

    def call(self, name, *arguments):
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", self.folder]
        command += ["--cores", "2", *arguments, f"results/{name}/corpora/mine/train.txt"]
        command += ["--configfile", self.folder / f"{name}.yaml"]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


@pytest.mark.slow
def test_a_good_text_is_never_lost(server, workflow):
    """Neither other words about it nor its date nor a forced call costs a text that is there; two studies share it."""
    server.script = [serve(PUBLISHED["text.txt.gz"], cut=CUT), serve(PUBLISHED["text.txt.gz"])]
    workflow.write("one", {"url": f"{server.url}/text.txt.gz", "sha256": sha256(TEXT)})
    first = workflow.call("one")
    assert first.returncode == 0, first.stderr
    assert names(workflow.path) == [""]
    assert workflow.path.read_bytes() == TEXT
    assert len(server.requests) == 2
    inode = workflow.path.stat().st_ino

    workflow.write("one", whole(server, "text.txt.gz", url="https://elsewhere.invalid/data/text.txt.gz"))
    os.utime(workflow.path)
    assert "Nothing to be done" in workflow.call("one", "--dry-run").stdout
    workflow.write("two", whole(server, "text.txt"))
    forced = workflow.call("two", "--forceall")
    assert forced.returncode == 0, forced.stderr
    assert len(server.requests) == 2
    assert workflow.path.stat().st_ino == inode


@pytest.mark.slow
def test_a_study_goes_on_with_a_text_placed_by_hand_which_is_checked(server, workflow, monkeypatch, capsys):
    server.script = [serve(PUBLISHED["text.txt.gz"], cut=CUT), refuse(404)]
    workflow.write("one", whole(server, "text.txt.gz"))
    failed = workflow.call("one")
    assert failed.returncode == 1
    assert f"lmpipe download: {server.url}/text.txt.gz: the server answers 404" in failed.stderr
    assert names(workflow.path) == [".part", ".part.json"], "Snakemake removes what a failed job made, but not these"

    workflow.path.write_bytes(OTHER)
    planned = workflow.call("one", "--dry-run", "--printshellcmds")
    assert "rule make_corpus" in planned.stdout and "rule download" not in planned.stdout
    command = shlex.split(re.search(r"lmpipe (make-corpus .*?) 2> ", planned.stdout)[1])
    monkeypatch.chdir(workflow.folder)
    with pytest.raises(SystemExit):
        main(command)
    assert (
        f"{workflow.path.name}: expected sha256 {sha256(TEXT)}, found {sha256(OTHER)}; put" in capsys.readouterr().err
    )
    assert not Path("results/one/corpora/mine/train.txt").exists()
    assert workflow.path.read_bytes() == OTHER
    workflow.path.write_bytes(TEXT)
    main(command)
    assert Path("results/one/corpora/mine/train.txt").exists()
