"""Downloads from a server on this machine that cuts, stalls, refuses and lies."""

import contextlib
import gzip
import hashlib
import http.server
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from lmpipe.data import download as download_module
from lmpipe.data.download import ChecksumMismatchError, PartialDownload, RetryPolicy
from lmpipe.errors import InputError
from lmpipe.study.corpora import TextFile

ROOT = Path(__file__).parents[2]
# No two kilobytes alike, so bytes at a wrong offset are wrong bytes; compression hardly shortens it.
TEXT = b"".join(
    hashlib.sha256(b"%d" % number).hexdigest().encode() + "\nZoë <|endoftext|>\n".encode() for number in range(1000)
)
OTHER = TEXT[::-1]
PUBLISHED = {"text.txt": TEXT, "text.txt.gz": gzip.compress(TEXT, mtime=0)}
SHA256 = hashlib.sha256(TEXT).hexdigest()
CUT = 20_000
POLICY = RetryPolicy(attempts=3, first_pause=0.01, max_pause=0.05, window_seconds=0.4, window_bytes=2000)
both = pytest.mark.parametrize("name", PUBLISHED)


def serve(body, cut=None, ranges=True, chunked=False, step=1000, pause=0.0, fast=0, **headers):
    """Build an answer with a body: a function of the request handler.

    `cut` closes the connection after that many bytes; each `step` of bytes after the first `fast` ones waits `pause`
    seconds; `headers` (ETag, Last_Modified, Content_Length, Content_Range) replace the true ones, None omits one.
    """

    def answer(handler):
        validators = {"ETag": '"first"', **headers}
        requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
        is_same = handler.headers.get("If-Range") in (None, validators["ETag"], headers.get("Last_Modified"))
        start = int(requested[1]) if requested and is_same else 0
        if start >= len(body):
            refuse(416)(handler)
            return
        sent = validators if chunked else {"Content_Length": len(body) - start, **validators}
        if start:
            sent = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}", **sent}
        if chunked:
            sent["Transfer_Encoding"] = "chunked"
        handler.send_response(206 if start else 200)
        for header, value in sent.items():
            if value is not None and (start or header != "Content_Range"):
                handler.send_header(header.replace("_", "-"), str(value))
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
    """Build an answer without a file."""

    def answer(handler):
        handler.send_response(code)
        for name, value in {"Content-Length": 0, **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    return answer


def stall(handler):
    time.sleep(3)
    handler.close_connection = True


def trickle_header(handler):
    with contextlib.suppress(OSError):
        for number in range(60):
            handler.wfile.write(b"x" if number else b"HTTP/1.1 200 OK\r\nX: ")
            time.sleep(0.05)
    handler.close_connection = True


def babble(handler):
    """Answer with something that is not HTTP, and no good in a terminal."""
    handler.wfile.write(bytes(range(256)) * 10)
    handler.close_connection = True


def hang_up(handler):
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
    """Gives the answers of its script in turn, repeats the last one, and records the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.script = [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def starts(self):
        """Return the first byte of each request."""
        return [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in self.requests]

    def settings(self, name="text.txt", keys=("bytes", "sha256", "text_bytes")):
        """Return the declaration of a text with some of its keys."""
        facts = {"bytes": len(PUBLISHED[name]), "sha256": SHA256, "text_bytes": len(TEXT)}
        return {"url": f"{self.url}/{name}"} | {key: facts[key] for key in keys}


def download(settings, path, policy=POLICY):
    """Download a text by the settings that a study declares."""
    download_module.download(TextFile.model_validate(settings), path, policy)


@pytest.fixture
def server():
    with Server() as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for variable in ("HF_ENDPOINT", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "resources" / "0123456789ab-text.txt"


def names(path):
    """Return the files of the folder, without the text's own name."""
    return sorted(entry.name.removeprefix(path.name) for entry in path.parent.iterdir()) if path.parent.exists() else []


def part_of(path):
    return path.with_name(f"{path.name}.part")


def assert_downloads(settings, path, policy=POLICY):
    download(settings, path, policy)
    assert path.read_bytes() == TEXT
    assert names(path) == [""]


def assert_fails(settings, path, policy=POLICY):
    """Return the one-line error of a download that leaves nothing at `path`."""
    with pytest.raises(InputError) as caught:
        download(settings, path, policy)
    assert str(caught.value).isprintable()
    assert not path.exists()
    return caught.value


def leave_part(server, path, name, keys=()):
    """Let a first call be cut after CUT bytes; return the settings of the text."""
    settings = server.settings(name, keys)
    server.script[:] = [serve(PUBLISHED[name], cut=CUT), hang_up]
    assert f"{CUT:,} bytes" in assert_fails(settings, path, RetryPolicy(attempts=2, first_pause=0)).problem
    assert names(path) == [".part", ".part.json"]
    server.requests.clear()
    return settings


# --- a good server


@both
@pytest.mark.parametrize("keys", [(), ("bytes", "sha256", "text_bytes")], ids=["undeclared", "declared"])
def test_download(server, path, name, keys):
    server.script = [serve(PUBLISHED[name])]
    assert_downloads(server.settings(name, keys), path)
    assert path.stat().st_mode & 0o600 == 0o600
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_text_placed_by_hand_is_verified_and_used(server, path):
    path.parent.mkdir()
    path.write_bytes(TEXT)
    assert_downloads(server.settings("text.txt.gz"), path)
    assert server.requests == []


@pytest.mark.parametrize("text", [TEXT[:-1], OTHER])
def test_another_text_in_place_is_reported_and_stays(server, path, text):
    path.parent.mkdir()
    path.write_bytes(text)
    with pytest.raises(ChecksumMismatchError) as caught:
        download(server.settings(), path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == text
    assert server.requests == []


# --- interruptions


@both
def test_cut_is_resumed(server, path, name):
    server.script = [serve(PUBLISHED[name], cut=CUT), serve(PUBLISHED[name])]
    assert_downloads(server.settings(name, ()), path)
    assert server.starts() == [0, CUT]
    assert server.requests[1][1]["If-Range"] == '"first"'


@both
def test_later_call_resumes(server, path, name):
    settings = leave_part(server, path, name)
    server.script = [serve(PUBLISHED[name])]
    assert_downloads(settings, path)
    assert server.starts() == [CUT]


def test_cuts_with_progress_are_retried_forever(server, path):
    server.script = [serve(TEXT, cut=1000)]
    assert_downloads(server.settings(), path)
    assert len(server.requests) > 5 * POLICY.attempts


@pytest.mark.parametrize(
    "script",
    [[serve(TEXT, cut=CUT), hang_up], [serve(TEXT, cut=CUT, ranges=False)]],
    ids=["nothing more", "always from zero"],
)
def test_cuts_without_progress_are_given_up(server, path, script):
    server.script = script
    assert "given up" in assert_fails(server.settings(), path).problem
    assert len(server.requests) <= POLICY.attempts + 1
    assert names(path) == [".part", ".part.json"]


def test_server_without_ranges_sends_the_whole_text_again(server, path):
    server.script = [serve(TEXT, cut=CUT, ranges=False), serve(TEXT, ranges=False)]
    assert_downloads(server.settings(), path)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start_download(settings, path):
    """Start the same download in another process."""
    code = f"""
from lmpipe.data.download import download
from lmpipe.study.corpora import TextFile
download(TextFile.model_validate({settings!r}), {str(path)!r})"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("reached", [1, CUT])
def test_killed_download_resumes(server, path, reached):
    server.script = [serve(TEXT, pause=0.01)]
    part = part_of(path)
    with start_download(server.settings(), path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size >= reached)
        process.kill()
    size = part.stat().st_size
    server.requests.clear()
    server.script = [serve(TEXT)]
    assert_downloads(server.settings(), path)
    assert server.starts() == [size]


def test_of_two_processes_one_downloads(server, path):
    both_are_here = threading.Event()

    def when_both_are_here(handler):
        both_are_here.wait(60)
        serve(TEXT)(handler)

    server.script = [when_both_are_here]
    first = start_download(server.settings(), path)
    wait_for(lambda: server.requests)
    second = start_download(server.settings(), path)
    assert "waiting" in second.stderr.readline()
    both_are_here.set()
    first.communicate(), second.communicate()
    assert [first.returncode, second.returncode] == [0, 0]
    assert server.starts() == [0]
    assert path.read_bytes() == TEXT
    assert names(path) == [""]


# --- slow and busy servers


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_busy_server_is_asked_again(server, path, code):
    server.script = [refuse(code), refuse(code), serve(TEXT)]
    assert_downloads(server.settings(), path)


def test_retry_after_is_respected_up_to_max_pause(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    answers = [refuse(429, Retry_After=7), refuse(503, Retry_After=86400), refuse(503, Retry_After="soon")]
    server.script = [*answers, serve(TEXT)]
    download(server.settings(), path, RetryPolicy(max_pause=20))
    assert pauses[:2] == [7, 20]
    assert 4 <= pauses[2] <= 5


def test_pauses_double(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server.script = [refuse(503)]
    assert "503" in assert_fails(server.settings(), path, RetryPolicy()).problem
    assert pauses == sorted(pauses) and len(pauses) == 5 and 31 <= sum(pauses) <= 31 * 1.25
    assert names(path) == []


@pytest.mark.parametrize(
    "slow",
    [stall, trickle_header, serve(TEXT, pause=1), serve(TEXT, step=10, pause=0.05)],
    ids=["silent", "endless header", "header only", "trickle"],
)
def test_slow_server_is_given_up_in_bounded_time(server, path, slow):
    server.script = [slow]
    started = time.monotonic()
    assert_fails(server.settings(), path)
    assert time.monotonic() - started < POLICY.attempts * (2 * POLICY.window_seconds + 1)


def test_server_that_becomes_slow_is_resumed(server, path):
    server.script = [serve(TEXT, step=100, pause=0.2, fast=3 * CUT), stall, serve(TEXT)]
    assert_downloads(server.settings(), path)
    _, second, third = server.starts()
    assert CUT <= second == third


# --- refusals


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusal_is_final_and_keeps_the_part(server, path, code):
    settings = leave_part(server, path, "text.txt")
    server.script = [refuse(code)]
    assert str(code) in assert_fails(settings, path).problem
    assert len(server.requests) == 1
    assert names(path) == [".part", ".part.json"]


def test_redirects_keep_the_range(server, path):
    redirect = refuse(302, Location="/elsewhere")
    server.script = [redirect, serve(TEXT, cut=CUT), redirect, serve(TEXT)]
    assert_downloads(server.settings("text.txt", ()), path)
    assert server.starts() == [0, 0, CUT, CUT]
    assert server.requests[3][0] == "/elsewhere"


def test_redirects_in_a_circle_are_an_error(server, path):
    server.script = [refuse(302, Location="/text.txt")]
    assert_fails(server.settings(), path)


# --- wrong answers


@both
def test_changed_file_is_downloaded_from_the_start(server, path, name):
    server.script = [serve(OTHER, cut=CUT, ETag='"old"'), serve(PUBLISHED[name], ETag='"new"')]
    assert_downloads(server.settings(name, ()), path)
    assert server.starts() == [0, CUT]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"ETag": 'W/"old"'}, {"ETag": 'W/"new"'}),
        ({"ETag": None, "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"ETag": None, "Last_Modified": "now"}),
        ({"ETag": '"old"'}, {"ETag": None}),
    ],
    ids=["weak tag", "date", "no tag any more"],
)
def test_change_is_noticed_if_the_server_ignores_if_range(server, path, old, new):
    def ignore_if_range(handler):
        del handler.headers["If-Range"]
        serve(TEXT, **new)(handler)

    server.script = [serve(OTHER, cut=CUT, **old), ignore_if_range]
    assert_downloads(server.settings("text.txt", ()), path)
    assert server.starts() == [0, CUT, 0]


@both
def test_unnoticed_change_is_found_by_the_checksum(server, path, name):
    body = PUBLISHED[name]
    server.script = [serve(body[::-1], cut=CUT, ETag=None), serve(body, ETag=None)]
    assert_downloads(server.settings(name, ["sha256"]), path)
    assert server.starts() == [0, CUT, 0]


@pytest.mark.parametrize("etag", [None, '"é"'], ids=["none", "not ASCII"])
def test_without_validator_and_checksum_nothing_is_resumed(server, path, etag):
    server.script = [serve(OTHER, cut=CUT, ETag=etag), serve(TEXT, ETag=None)]
    assert_downloads(server.settings("text.txt", ()), path)
    assert server.starts() == [0, 0]


@both
@pytest.mark.parametrize("declared", [{"sha256": "0" * 64}, {"text_bytes": 5}])
def test_another_text_than_declared_leaves_nothing(server, path, name, declared):
    server.script = [serve(PUBLISHED[name])]
    assert_fails({"url": f"{server.url}/{name}", **declared}, path)
    assert names(path) == []
    assert len(server.requests) == 1


def test_another_text_than_declared_is_downloaded_twice_at_most(server, path):
    server.script = [serve(OTHER, cut=CUT)]
    assert isinstance(assert_fails(server.settings(), path), ChecksumMismatchError)
    assert names(path) == []
    assert server.starts().count(0) == 2


def test_another_length_than_declared_keeps_the_part(server, path):
    settings = leave_part(server, path, "text.txt", ["bytes"])
    server.script = [serve(TEXT[:-1], ranges=False)]
    assert f"{len(TEXT):,}" in assert_fails(settings, path).problem
    assert part_of(path).read_bytes() == TEXT[:CUT]


@pytest.mark.parametrize(
    ("answer", "keys"),
    [
        (serve(TEXT, Content_Length=len(TEXT) + 10), ()),
        (serve(TEXT, Content_Length=CUT), ("sha256",)),
        (serve(TEXT, Content_Length=None), ()),
        (serve(TEXT, Content_Length="9" * 5000), ()),
        (serve(TEXT + OTHER, chunked=True), ("bytes",)),
        (serve(b""), ("sha256",)),
        (babble, ()),
        (hang_up, ()),
    ],
    ids=["too long", "too short", "none", "absurd", "more than declared", "empty", "not HTTP", "nothing"],
)
def test_wrong_answer_is_one_line_and_leaves_no_text(server, path, answer, keys):
    server.script = [answer]
    assert_fails(server.settings("text.txt", keys), path)


@pytest.mark.parametrize(
    "content_range",
    [f"bytes {CUT + 9}-{len(TEXT) - 1}/{len(TEXT)}", f"bytes {CUT}-99/{2 * len(TEXT)}", "bytes", "lines 1-2/3"],
)
def test_range_that_was_not_requested_is_not_appended(server, path, content_range):
    server.script = [serve(TEXT, cut=CUT), serve(TEXT, Content_Range=content_range), serve(TEXT)]
    assert_downloads(server.settings("text.txt", ()), path)
    assert server.starts() == [0, CUT, 0]


@pytest.mark.parametrize("total", [len(TEXT), "*"])
def test_chunked_text_ends_with_its_last_chunk(server, path, total):
    rest = serve(TEXT, cut=CUT, Content_Range=f"bytes {CUT}-{len(TEXT) - 1}/{total}")
    server.script = [serve(TEXT, chunked=True, cut=CUT), rest, serve(TEXT, chunked=total == "*")]
    assert_downloads(server.settings("text.txt", ()), path)
    assert server.starts() == ([0, CUT, 0] if total == "*" else [0, CUT, 2 * CUT])


@both
def test_cut_that_looks_like_the_end_is_found_by_the_checksum(server, path, name):
    server.script = [serve(PUBLISHED[name], Content_Length=None, cut=CUT), serve(PUBLISHED[name], Content_Length=None)]
    assert_downloads(server.settings(name, ["sha256"]), path)


# --- gzip

FLIPPED = bytearray(PUBLISHED["text.txt.gz"])
FLIPPED[CUT] ^= 1


@pytest.mark.parametrize(
    "body",
    [gzip.compress(TEXT[:9999]) + gzip.compress(TEXT[9999:]), PUBLISHED["text.txt.gz"] + bytes(512)],
    ids=["two members", "padded"],
)
def test_gzip_of_several_members_or_padded(server, path, body):
    server.script = [serve(body, Content_Encoding="gzip")]
    assert_downloads(server.settings("text.txt.gz", ["sha256"]), path)


@pytest.mark.parametrize(
    "body",
    [
        bytes(FLIPPED),
        PUBLISHED["text.txt.gz"][:-5],
        PUBLISHED["text.txt.gz"] + b"garbage",
        b"<html>Please log in</html>",
        gzip.compress(b""),
    ],
    ids=["flipped bit", "shortened", "trailing garbage", "a page", "empty"],
)
def test_damaged_gzip_leaves_nothing(server, path, body):
    server.script = [serve(body)]
    settings = server.settings("text.txt.gz", ())
    assert isinstance(assert_fails(settings, path), ChecksumMismatchError)
    assert names(path) == []
    server.script = [serve(PUBLISHED["text.txt.gz"])]
    assert_downloads(settings, path)


# --- parts of earlier calls


@pytest.mark.parametrize(
    ("part", "source"),
    [
        (TEXT + b"more", None),
        (OTHER[:CUT], ""),
        (OTHER[:CUT], "{damaged"),
        (OTHER[:CUT], PartialDownload(url="https://a.example/x", validator=None, total=None).model_dump_json()),
        (OTHER, None),
        (b"", None),
    ],
    ids=["too long", "no source", "damaged source", "another address", "complete but wrong", "empty"],
)
def test_unusable_part_is_dropped(server, path, part, source):
    settings = leave_part(server, path, "text.txt", ["sha256"])
    part_of(path).write_bytes(part)
    if source is not None:
        path.with_name(f"{path.name}.part.json").write_text(source, encoding="utf-8")
    server.script = [serve(TEXT)]
    assert_downloads(settings, path)
    assert server.starts() == [0]


@both
def test_complete_part_needs_no_server(server, path, name):
    settings = leave_part(server, path, name)
    part_of(path).write_bytes(PUBLISHED[name])
    assert_downloads(settings, path)
    assert server.requests == []


# --- the disk


@both
def test_too_little_disk_space_is_reported_before_the_first_byte(server, path, monkeypatch, name):
    settings = leave_part(server, path, name, ["text_bytes"])
    needed = len(PUBLISHED[name]) - CUT + download_module.RESERVE_BYTES + len(TEXT) * name.endswith(".gz")
    server.script = [serve(PUBLISHED[name])]
    usage = shutil.disk_usage(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
        assert f"{needed:,}" in assert_fails(settings, path).problem
    assert part_of(path).stat().st_size == CUT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert_downloads(settings, path)


@pytest.mark.parametrize(("name", "size"), [("text.txt", 30_000), ("text.txt.gz", len(PUBLISHED["text.txt.gz"]))])
def test_full_disk_keeps_the_part(server, path, name, size):
    """A limit on the size of files stands for the disk: it stops the part, or the decompressed text."""
    server.script = [serve(PUBLISHED[name])]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(size + 20, 80_000), hard))
    try:
        assert_fails(server.settings(name), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(path) == [".part", ".part.json"]
    assert size <= part_of(path).stat().st_size
    assert_downloads(server.settings(name), path)


# --- the way to the server


def test_offline_error_says_where_to_put_the_text(path):
    with Server() as closed:
        settings = closed.settings("text.txt.gz")
    error = assert_fails(settings, path)
    assert error.where == settings["url"]
    assert all(fact in error.remedy for fact in (f"{len(TEXT):,}", SHA256, str(path)))
    assert names(path) == []


def test_unknown_host_is_no_connection(path):
    assert_fails({"url": "http://nowhere.invalid/text.txt"}, path)


def test_hf_endpoint_replaces_the_hub(server, path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.script = [serve(TEXT)]
    assert_downloads({"url": "https://huggingface.co/datasets/x/resolve/main/text.txt", "sha256": SHA256}, path)
    path.unlink()
    assert_downloads(server.settings(), path)
    assert [request for request, _ in server.requests] == ["/hub/datasets/x/resolve/main/text.txt", "/text.txt"]
    assert server.requests[0][1]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in server.requests[1][1]


def test_proxy_of_the_environment_is_used(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.script = [serve(TEXT)]
    assert_downloads({"url": "http://texts.invalid/text.txt"}, path)
    assert [request for request, _ in server.requests] == ["http://texts.invalid/text.txt"]
    monkeypatch.setenv("no_proxy", "texts.invalid")
    path.unlink()
    assert_fails({"url": "http://texts.invalid/text.txt"}, path)


@pytest.mark.parametrize("mirror", ["hub.example", "http://127.0.0.1:port", "http://höb .example/a b", "https://.x"])
def test_hf_endpoint_that_is_no_address_is_one_line(path, monkeypatch, mirror):
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    assert assert_fails({"url": "https://huggingface.co/text.txt"}, path).where == f"{mirror}/text.txt"
    assert names(path) == []


def test_untrusted_certificate_is_not_retried(path, monkeypatch):
    def get(*_, **__):
        try:
            error = ssl.SSLCertVerificationError(1, "certificate verify failed")
            error.verify_message = "self-signed certificate"
            raise error
        except ssl.SSLError as error:
            raise download_module.requests.exceptions.SSLError(error) from error

    monkeypatch.setattr(download_module.requests, "get", get)
    error = assert_fails({"url": "https://example.org/text.txt"}, path)
    assert "self-signed" in error.problem and "REQUESTS_CA_BUNDLE" in error.remedy


# --- in the workflow


@pytest.fixture
def make_corpus(tmp_path):
    """Call Snakemake for the one, downloaded corpus of a small study."""

    def call(study, text, *arguments):
        settings = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
        corpus = {"source": "url", "files": [text], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
        settings |= {"study": study, "corpora": {"mine": corpus}, "accounting": {}}
        settings |= {"experiments": {"main_experiment": {"runs": {"mine": {"corpus": "mine"}}}}}
        del settings["samples"]
        (tmp_path / f"{study}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
        command += ["--cores", "2", *arguments, f"results/{study}/corpora/mine/train.txt"]
        command += ["--configfile", tmp_path / f"{study}.yaml"]
        return subprocess.run([str(argument) for argument in command], capture_output=True, text=True)

    return call


@pytest.mark.workflow
def test_downloaded_text_is_never_lost(server, make_corpus, tmp_path):
    """Neither another declaration, nor its date, nor --forceall costs a text that is there; two studies share it."""
    server.script = [serve(PUBLISHED["text.txt.gz"], cut=CUT), serve(PUBLISHED["text.txt.gz"])]
    path = tmp_path / "resources" / f"{SHA256[:12]}-text.txt"
    first = make_corpus("one", server.settings("text.txt.gz", ["sha256"]))
    assert first.returncode == 0, first.stderr
    assert path.read_bytes() == TEXT and names(path) == [""]
    inode = path.stat().st_ino

    path.touch()
    moved = server.settings("text.txt.gz") | {"url": "https://elsewhere.invalid/data/text.txt.gz"}
    assert "Nothing to be done" in make_corpus("one", moved, "--dry-run").stdout
    forced = make_corpus("two", server.settings(), "--forceall")
    assert forced.returncode == 0, forced.stderr
    assert len(server.requests) == 2
    assert path.stat().st_ino == inode


@pytest.mark.workflow
def test_study_continues_with_a_text_placed_by_hand(server, make_corpus, tmp_path):
    server.script = [serve(PUBLISHED["text.txt.gz"], cut=CUT), refuse(404)]
    path = tmp_path / "resources" / f"{SHA256[:12]}-text.txt"
    failed = make_corpus("one", server.settings("text.txt.gz"))
    assert failed.returncode == 1
    assert "404" in failed.stderr
    assert names(path) == [".part", ".part.json"], "Snakemake removes outputs of a failed job, but not these"

    path.write_bytes(OTHER)
    wrong = make_corpus("one", server.settings("text.txt.gz"))
    assert SHA256 in wrong.stderr
    assert not (tmp_path / "results/one/corpora/mine/train.txt").exists()
    assert path.read_bytes() == OTHER
    path.write_bytes(TEXT)
    corpus = make_corpus("one", server.settings("text.txt.gz"))
    assert corpus.returncode == 0, corpus.stderr
