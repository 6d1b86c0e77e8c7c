"""Downloads from a server on this machine that cuts, stalls, refuses and lies."""

import gzip
import hashlib
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time

import pytest
import yaml

from lmpipe.data import download as download_module
from lmpipe.data.download import ChecksumMismatchError, PartialDownload, RetryPolicy
from lmpipe.errors import InputError
from lmpipe.study.corpora import TextFile
from tests.support.fault_server import Server, babble, hang_up, refuse, serve, stall, trickle_header
from tests.support.workflow import ROOT, call_snakemake

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


def declare(server, name="text.txt", keys=("bytes", "sha256", "text_bytes")):
    """Return the declaration of a text with some of its keys."""
    facts = {"bytes": len(PUBLISHED[name]), "sha256": SHA256, "text_bytes": len(TEXT)}
    return {"path": f"{server.url}/{name}"} | {key: facts[key] for key in keys}


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
    settings = declare(server, name, keys)
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
    assert_downloads(declare(server, name, keys), path)
    assert path.stat().st_mode & 0o600 == 0o600
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_text_placed_by_hand_is_verified_and_used(server, path):
    path.parent.mkdir()
    path.write_bytes(TEXT)
    assert_downloads(declare(server, "text.txt.gz"), path)
    assert server.requests == []


@pytest.mark.parametrize("text", [TEXT[:-1], OTHER])
def test_another_text_in_place_is_reported_and_stays(server, path, text):
    path.parent.mkdir()
    path.write_bytes(text)
    with pytest.raises(ChecksumMismatchError) as caught:
        download(declare(server), path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == text
    assert server.requests == []


def test_folder_in_place_of_the_text_is_refused(server, path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match="is a directory"):
        download(declare(server, keys=()), path)
    assert server.requests == []


# --- interruptions, busy servers and wrong answers that the download survives


NO_TAG, REDIRECT = {"ETag": None}, refuse(302, Location="/elsewhere")
OLD_DATE = {"ETag": None, "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
NEW_DATE = {"ETag": None, "Last_Modified": "now"}
DEAF = {"if_range": False}
REST = "bytes {start}-{last}/{size}"
# Answers (arguments of `serve`, or others), keys that the study declares, and the first byte of each request.
RECOVERED = {
    "cut": ([{"cut": CUT}, {}], (), [0, CUT]),
    "no ranges": ([{"cut": CUT, "ranges": False}, {"ranges": False}], (), [0, CUT]),
    "redirects": ([REDIRECT, {"cut": CUT}, REDIRECT, {}], (), [0, 0, CUT, CUT]),
    "busy": ([refuse(408), refuse(503), {}], (), [0, 0, 0]),
    "changed": ([{"body": OTHER, "cut": CUT, "ETag": '"old"'}, {}], (), [0, CUT]),
    "weak tag": ([{"body": OTHER, "cut": CUT, "ETag": 'W/"a"'}, DEAF | {"ETag": 'W/"b"'}, {}], (), [0, CUT, 0]),
    "date": ([{"body": OTHER, "cut": CUT} | OLD_DATE, DEAF | NEW_DATE, NEW_DATE], (), [0, CUT, 0]),
    "tag removed": ([{"body": OTHER, "cut": CUT}, DEAF | NO_TAG, {}], (), [0, CUT, 0]),
    "unnoticed change": ([{"body": OTHER, "cut": CUT} | NO_TAG, NO_TAG], ["sha256"], [0, CUT, 0]),
    "no validator": ([{"body": OTHER, "cut": CUT} | NO_TAG, NO_TAG], (), [0, 0]),
    "tag not ASCII": ([{"body": OTHER, "cut": CUT, "ETag": '"é"'}, NO_TAG], (), [0, 0]),
    "other range": ([{"cut": CUT}, {"Content_Range": "bytes 9-{last}/{size}"}, {}], (), [0, CUT, 0]),
    "other total": ([{"cut": CUT}, {"Content_Range": "bytes {start}-99/999999"}, {}], (), [0, CUT, 0]),
    "no bytes": ([{"cut": CUT}, {"Content_Range": "lines 1-2/3"}, {}], (), [0, CUT, 0]),
    "chunked": ([{"chunked": True, "cut": CUT}, {"cut": 99, "Content_Range": REST}, {}], (), [0, CUT, CUT + 99]),
    "no total": ([{"chunked": True, "cut": CUT}, {"Content_Range": "bytes {start}-9/*"}, {}], (), [0, CUT, 0]),
    "seeming end": ([{"Content_Length": None, "cut": CUT}, {"Content_Length": None}], ["sha256"], [0, 0]),
}


@pytest.mark.parametrize(("answers", "keys", "starts"), RECOVERED.values(), ids=RECOVERED)
def test_download_recovers(server, path, answers, keys, starts):
    server.script = [serve(**{"body": TEXT} | answer) if isinstance(answer, dict) else answer for answer in answers]
    assert_downloads(declare(server, keys=keys), path)
    assert server.starts() == starts


@both
def test_later_call_resumes(server, path, name):
    settings = leave_part(server, path, name)
    server.script = [serve(PUBLISHED[name])]
    assert_downloads(settings, path)
    assert server.starts() == [CUT]
    assert server.requests[0][1]["If-Range"] == '"first"'


def test_cuts_with_progress_are_retried_forever(server, path):
    server.script = [serve(TEXT, cut=4000)]
    assert_downloads(declare(server), path)
    assert len(server.requests) > 5 * POLICY.attempts


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


def test_killed_download_resumes(server, path):
    server.script = [serve(TEXT, pause=0.01)]
    part = part_of(path)
    with start_download(declare(server), path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size)
        process.kill()
    size = part.stat().st_size
    server.requests.clear()
    server.script = [serve(TEXT)]
    assert_downloads(declare(server), path)
    assert server.starts() == [size]


def test_of_two_processes_one_downloads(server, path):
    both_are_here = threading.Event()

    def when_both_are_here(handler):
        both_are_here.wait(60)
        serve(TEXT)(handler)

    server.script = [when_both_are_here]
    first = start_download(declare(server), path)
    wait_for(lambda: server.requests)
    second = start_download(declare(server), path)
    assert "waiting" in second.stderr.readline()
    both_are_here.set()
    first.communicate(), second.communicate()
    assert [first.returncode, second.returncode] == [0, 0]
    assert server.starts() == [0]
    assert path.read_bytes() == TEXT
    assert names(path) == [""]


# --- slow and busy servers


@pytest.fixture
def pauses(monkeypatch):
    """Return the seconds of every pause between attempts; none takes its time."""
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    return pauses


def test_retry_after_is_respected_up_to_max_pause(server, path, pauses):
    answers = [refuse(429, Retry_After=7), refuse(503, Retry_After=86400), refuse(503, Retry_After="soon")]
    server.script = [*answers, serve(TEXT)]
    download(declare(server), path, RetryPolicy(max_pause=20))
    assert pauses[:2] == [7, 20]
    assert 4 <= pauses[2] <= 5


def test_pauses_double(server, path, pauses):
    server.script = [refuse(503)]
    assert "503" in assert_fails(declare(server), path, RetryPolicy()).problem
    assert pauses == sorted(pauses) and len(pauses) == 5 and 31 <= sum(pauses) <= 31 * 1.25
    assert names(path) == []


def test_server_that_becomes_slow_is_resumed(server, path):
    server.script = [serve(TEXT, step=100, pause=0.2, fast=3 * CUT), stall, serve(TEXT)]
    assert_downloads(declare(server), path)
    _, second, third = server.starts()
    assert CUT <= second == third


# --- answers without the text

FAILURES = {
    "too long": (serve(TEXT, Content_Length=len(TEXT) + 10), (), True),
    "too short": (serve(TEXT, Content_Length=CUT), ["sha256"], False),
    "no length": (serve(TEXT, Content_Length=None), (), False),
    "absurd length": (serve(TEXT, Content_Length="9" * 5000), (), False),
    "more than declared": (serve(TEXT + OTHER, chunked=True), ["bytes"], False),
    "empty": (serve(b""), ["sha256"], False),
    "another text": (serve(OTHER, cut=CUT), ["bytes", "sha256"], False),
    "not HTTP": (babble, (), False),
    "nothing": (hang_up, (), False),
    "circle": (refuse(302, Location="/text.txt"), (), False),
    "always from zero": (serve(TEXT, cut=CUT, ranges=False), ["bytes"], True),
    "silent": (stall, (), False),
    "endless header": (trickle_header, (), False),
    "header only": (serve(TEXT, pause=1), (), None),
    "trickle": (serve(TEXT, step=10, pause=0.05), (), None),
}


@pytest.mark.parametrize(("answer", "keys", "is_part_left"), FAILURES.values(), ids=FAILURES)
def test_failure_is_one_line_in_bounded_time(server, path, answer, keys, is_part_left):
    server.script = [answer]
    started = time.monotonic()
    assert_fails(declare(server, "text.txt", keys), path)
    assert time.monotonic() - started < POLICY.attempts * (2 * POLICY.window_seconds + 1)
    if is_part_left is not None:
        assert names(path) == [".part", ".part.json"] * is_part_left


@pytest.mark.parametrize("code", [401, 404])
def test_refusal_is_final_and_keeps_the_part(server, path, code):
    settings = leave_part(server, path, "text.txt")
    server.script = [refuse(code)]
    assert str(code) in assert_fails(settings, path).problem
    assert len(server.requests) == 1
    assert names(path) == [".part", ".part.json"]


@both
@pytest.mark.parametrize("declared", [{"sha256": "0" * 64}, {"text_bytes": 5}])
def test_another_text_than_declared_leaves_nothing(server, path, name, declared):
    server.script = [serve(PUBLISHED[name])]
    assert_fails({"path": f"{server.url}/{name}", **declared}, path)
    assert names(path) == []
    assert len(server.requests) == 1


def test_another_length_than_declared_keeps_the_part(server, path):
    settings = leave_part(server, path, "text.txt", ["bytes"])
    server.script = [serve(TEXT[:-1], ranges=False)]
    assert f"{len(TEXT):,}" in assert_fails(settings, path).problem
    assert part_of(path).read_bytes() == TEXT[:CUT]


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
    assert_downloads(declare(server, "text.txt.gz", ["sha256"]), path)


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
    settings = declare(server, "text.txt.gz", ())
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
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(size + 20, 80_000), limits[1]))
    try:
        assert_fails(declare(server, name), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(path) == [".part", ".part.json"]
    assert size <= part_of(path).stat().st_size
    assert_downloads(declare(server, name), path)


# --- the way to the server


def test_offline_error_names_the_path_of_the_text(path):
    with Server() as closed:
        settings = declare(closed, "text.txt.gz")
    error = assert_fails(settings, path)
    assert error.where == settings["path"]
    assert all(fact in error.remedy for fact in (f"{len(TEXT):,}", SHA256, str(path)))
    assert names(path) == []


def test_hf_endpoint_replaces_the_hub(server, path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.script = [serve(TEXT)]
    assert_downloads({"path": "https://huggingface.co/datasets/x/resolve/main/text.txt", "sha256": SHA256}, path)
    path.unlink()
    assert_downloads(declare(server), path)
    assert [request for request, _ in server.requests] == ["/hub/datasets/x/resolve/main/text.txt", "/text.txt"]
    assert server.requests[0][1]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in server.requests[1][1]


def test_proxy_of_the_environment_is_used(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.script = [serve(TEXT)]
    assert_downloads({"path": "http://texts.invalid/text.txt"}, path)
    assert [request for request, _ in server.requests] == ["http://texts.invalid/text.txt"]
    monkeypatch.setenv("no_proxy", "texts.invalid")
    path.unlink()
    assert_fails({"path": "http://texts.invalid/text.txt"}, path)


@pytest.mark.parametrize("mirror", ["hub.example", "http://127.0.0.1:port", "http://höb .example/a b", "https://.x"])
def test_hf_endpoint_that_is_no_address_is_one_line(path, monkeypatch, mirror):
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    assert assert_fails({"path": "https://huggingface.co/text.txt"}, path).where == f"{mirror}/text.txt"
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
    error = assert_fails({"path": "https://example.org/text.txt"}, path)
    assert "self-signed" in error.problem and "REQUESTS_CA_BUNDLE" in error.remedy


# --- in the workflow


@pytest.fixture
def make_corpus(tmp_path):
    """Call Snakemake for the one, downloaded corpus of a small study."""

    def call(study, text, *arguments):
        settings = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
        corpus = {"source": "files", "files": [text], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
        settings |= {"study": study, "corpora": {"mine": corpus}, "accounting": {}}
        settings |= {"experiments": {"main_experiment": {"runs": {"mine": {"corpus": "mine"}}}}}
        del settings["samples"]
        (tmp_path / f"{study}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        target = f"results/{study}/corpora/mine/train.txt"
        return call_snakemake(tmp_path, *arguments, target, "--configfile", f"{study}.yaml", check=False)

    return call


@pytest.mark.workflow
def test_text_is_never_lost_in_the_workflow(server, make_corpus, tmp_path):
    """A failed job leaves the part, and a wrong text stays; no other declaration, date or --forceall costs a text."""
    server.script = [serve(PUBLISHED["text.txt.gz"], cut=CUT), refuse(404), serve(PUBLISHED["text.txt.gz"])]
    path = tmp_path / "resources" / f"{SHA256[:12]}-text.txt"
    failed = make_corpus("one", declare(server, "text.txt.gz"))
    assert (failed.returncode, names(path)) == (1, [".part", ".part.json"])
    assert "404" in failed.stderr

    path.write_bytes(OTHER)
    assert SHA256 in make_corpus("one", declare(server, "text.txt.gz")).stderr
    assert path.read_bytes() == OTHER
    path.unlink()
    corpus = make_corpus("one", declare(server, "text.txt.gz"))
    assert corpus.returncode == 0, corpus.stderr
    assert (path.read_bytes(), names(path), server.starts()) == (TEXT, [""], [0, CUT, CUT])

    inode = path.stat().st_ino
    path.touch()
    moved = declare(server, "text.txt.gz") | {"path": "https://elsewhere.invalid/data/text.txt.gz"}
    assert "Nothing to be done" in make_corpus("one", moved, "--dry-run").stdout
    forced = make_corpus("two", declare(server), "--forceall")
    assert forced.returncode == 0, forced.stderr
    assert (len(server.requests), path.stat().st_ino) == (3, inode)


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html>\n<p>Sign in</p>", b"PK\x03\x04" + bytes(99), b'{"a": 1}\n'], ids=["page", "zip", "JSON"]
)
def test_download_that_is_no_text_is_refused_and_not_kept(server, path, data):
    server.script = [serve(data)]
    assert assert_fails({"path": f"{server.url}/text.txt"}, path).remedy
    assert names(path) == []
    server.script = [serve(gzip.compress(data))]
    assert assert_fails({"path": f"{server.url}/text.txt.gz"}, path).remedy
    assert names(path) == []
