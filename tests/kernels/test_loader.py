import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmpipe.errors import InputError
from lmpipe.kernels.runtime import disk_cache
from lmpipe.kernels.runtime.disk_cache import cached
from lmpipe.kernels.runtime.loader import load

MODULE = "lmpipe.kernels.bpe.pretoken_table_kernels"
TINY = "tests.support.tiny_kernels"
ROOT = Path(__file__).parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.fixture
def cache_folder(monkeypatch, tmp_path):
    """Return a cache folder for one test."""
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def test_cached_content_is_made_once_and_again_when_damaged(cache_folder):
    calls = []

    def make():
        calls.append(1)
        return b"content"

    threads = [threading.Thread(target=cached, args=("thing", "key", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    (path,) = cache_folder.glob("thing-*.bin")
    for damage in (b"", b"content", path.read_bytes()[:-1], b"x" + path.read_bytes()):
        path.write_bytes(damage)
        assert cached("thing", "key", make) == b"content"
    assert len(calls) == 5
    cached("thing", "another key", make)
    assert len(calls) == 6


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(*args, **kwargs):
    raise InputError("kernels.bin", "the disk is full", "make space")


@pytest.mark.parametrize(
    ("step", "fault"),
    [("cache_folder", no_space), ("file_lock", no_space), ("atomic_write", no_space), ("atomic_write", full_disk)],
)
def test_full_disk_leaves_the_content_to_this_process_with_one_notice(monkeypatch, cache_folder, capsys, step, fault):
    monkeypatch.setattr(disk_cache, "_notices", [])
    monkeypatch.setattr(disk_cache, step, fault)
    assert [cached(name, "key", lambda: b"content") for name in ("one", "two")] == [b"content"] * 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "for this process alone" in output.err


def test_cache_folder_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "open"))
    monkeypatch.setattr(disk_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "open" / "kernels").mkdir(parents=True)
    (tmp_path / "open" / "kernels").chmod(0o777)
    assert disk_cache.cache_folder() == tmp_path / f"lmpipe-{os.getuid()}" / "kernels"
    (tmp_path / "open" / "kernels").chmod(0o755)
    assert disk_cache.cache_folder() == tmp_path / "open" / "kernels"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "file"))
    assert disk_cache.cache_folder() == tmp_path / f"lmpipe-{os.getuid()}" / "kernels"


def test_kernels_load_without_numba():
    load(MODULE)
    code = f"import sys; from lmpipe.kernels.runtime.loader import load; kernels = load({MODULE!r})\n"
    code += "print(callable(kernels.scan), 'numba' in sys.modules)"
    assert run(code).stdout == "True False\n"


def test_one_variant_of_kernels_is_compiled_in_the_process_without_object_code(tmp_path):
    code = f"""
from lmpipe.errors import InputError
from lmpipe.kernels.runtime import loader
from lmpipe.kernels.runtime.buffers import *
def fail(*args): raise OSError('no compiler')
loader.compile_in_subprocess = fail
number = buffer_of(bytes([21]))
print(loader.load({TINY!r}).double(number.address))
try: loader.load({TINY!r}, wide=True)
except InputError: print('refused')
"""
    result = run(code, LMPIPE_CACHE=str(tmp_path))
    assert result.stdout == "42\nrefused\n"
    assert "for this process alone (no compiler)" in result.stderr


def test_notice_of_compiling_never_reaches_standard_output(tmp_path):
    code = f"from lmpipe.kernels.runtime.loader import load; print(callable(load({TINY!r}).double))"
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LMPIPE_CACHE": str(tmp_path)}
    done = subprocess.run(closed, env=environment, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert len(list(tmp_path.glob("kernels/*.bin"))) == 1
