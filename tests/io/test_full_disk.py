"""A full disk: each verb reports the file and the missing bytes, loses nothing, and continues later."""

import contextlib
import errno
import gc
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.data.corpus import make_corpus
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, json_bytes, write_json
from lmpipe.study.corpora import FilesCorpus
from lmpipe.training.run import train
from tests.support.cli_cases import TEXT, command
from tests.support.fake_results import skip_drawing
from tests.support.tiny_study import make_tiny_study, tiny_run

DISK_BYTES = 4 << 20
PAGE_BYTES = 4096
LACKS = r"does not fit \(.*\): ([\d,]+) of ([\d,]+) bytes are missing"
LACKS_MORE = r"does not fit \(.*\): [\d,]+ bytes were written"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small disk at a folder; skip without the right to mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},{options}", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily, for a refused run may still hold its token files open.
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    """Yield a disk of a few megabytes."""
    with mounted(tmp_path_factory.mktemp("disk"), "rw") as folder:
        yield folder


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    skip_drawing(monkeypatch)


@contextlib.contextmanager
def filled(disk: Path, left: int = 0) -> Iterator[None]:
    """Fill a disk up temporarily, except for some bytes."""
    filler = disk / "filler"
    gc.collect()  # a run's memory maps of deleted files take up room until they are closed
    free = shutil.disk_usage(disk).free // PAGE_BYTES * PAGE_BYTES
    filler.write_bytes(bytes(free - left))
    try:
        yield
    finally:
        filler.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def error_line(arguments: list[str], capfd) -> str:
    """Return the line that a refused command ends with."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    return capfd.readouterr().err


# A command for each way to write: the others write JSON or CSV as these do.
COMMANDS = (
    "make-corpus", "count-pretokens", "train-bpe", "encode", "concat-tokens", "select-best", "train", "generate",
    "plot-experiment", "report", "collect-provenance",
)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_keeps_the_last_good_files(whole_study, disk, name, monkeypatch, capfd):
    folder = disk / name
    shutil.copytree(whole_study, folder)
    monkeypatch.chdir(folder)
    main(command(name))
    before = contents(folder)
    with filled(disk):
        line = error_line(command(name), capfd)
        after = contents(folder)
    assert line.startswith(f"lmpipe {name}: ") and line.count("\n") == 1
    assert re.search(f"{LACKS}|{LACKS_MORE}", line)
    assert after == before
    main(command(name))
    assert contents(folder).keys() == before.keys()
    monkeypatch.chdir(disk)
    shutil.rmtree(folder)


def test_full_disk_error_has_the_missing_bytes(disk):
    value = {"text": "x" * 3 * PAGE_BYTES}
    size = len(json_bytes(value))
    path = disk / "a.json"
    with filled(disk, left=PAGE_BYTES), pytest.raises(InputError) as caught:
        write_json(path, value)
    missing, expected = (int(number.replace(",", "")) for number in re.search(LACKS, str(caught.value)).groups())
    assert (missing, expected) == (size - PAGE_BYTES, size)
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("room", [0.3, 0.9, 1.0])
def test_a_corpus_of_two_texts_changes_as_a_whole_or_not_at_all(whole_study, disk, room, monkeypatch):
    monkeypatch.chdir(whole_study)
    target = disk / "corpus"
    corpus = {"source": "files", "valid_fraction": 0.4, "tokenizer": {"vocab_size": 300}}
    make_corpus("mine", FilesCorpus(files=[f"{TEXT}"], **corpus), target)
    before = contents(target)
    other = disk.parent / "other.txt"
    other.write_bytes(Path(TEXT).read_bytes().replace(b"sun", b"star") * 20)
    # The text is joined on the disk before it is split.
    left = (int(2 * room * os.path.getsize(other)) // PAGE_BYTES + 4) * PAGE_BYTES
    with filled(disk, left):
        if room < 1:
            with pytest.raises(InputError, match="does not fit"):
                make_corpus("mine", FilesCorpus(files=[f"{other}"], **corpus), target)
            assert contents(target) == before
        else:
            make_corpus("mine", FilesCorpus(files=[f"{other}"], **corpus), target)
            assert contents(target).keys() == before.keys()
    shutil.rmtree(target)


def test_training_resumes_from_its_last_checkpoint(disk, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    settings = tiny_run(total_tokens=64 * 12)
    train(settings, make_tiny_study(tmp_path / "whole"), tmp_path / "whole/run")
    results = make_tiny_study(disk / "results")
    with filled(disk, left=400_000), pytest.raises(InputError) as caught:
        train(settings, results, disk / "results/run", checkpoint_seconds=0)
    assert re.search(r"step-00000000\d\d\.safetensors: " + LACKS, str(caught.value))
    checkpoints = sorted(path.name for path in results.glob("store/*/checkpoints/*"))
    assert len(checkpoints) == 2 and all(name.endswith(".safetensors") for name in checkpoints)
    capfd.readouterr()
    train(settings, results, disk / "results/run", checkpoint_seconds=0)
    assert f"resuming from step {int(checkpoints[-1][5:15])} of 12" in capfd.readouterr().err
    weights = "run/model.safetensors"
    assert (disk / "results" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    shutil.rmtree(results)


def test_a_run_is_published_from_the_store_once_there_is_room(disk, tmp_path, monkeypatch):
    results = make_tiny_study(tmp_path / "results")
    with filled(disk), pytest.raises(InputError, match=r"model\.safetensors: " + LACKS):
        train(tiny_run(), results, disk / "run")
    monkeypatch.setattr("lmpipe.training.trainer.Trainer", None)
    train(tiny_run(), results, disk / "run")
    assert {path.name for path in (disk / "run").iterdir()} == {
        "config.json",
        "metrics.csv",
        "model.safetensors",
        "summary.json",
    }
    shutil.rmtree(disk / "run")


def test_read_only_disk_is_one_line(whole_study, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(whole_study)
    with mounted(tmp_path, "ro"):
        line = error_line([*command("count-pretokens")[:-1], str(tmp_path / "counts" / "0.npz")], capfd)
    assert line.startswith(f"lmpipe count-pretokens: {tmp_path / 'counts'}") and line.count("\n") == 1
    assert "read-only" in line


# --- without a disk of one's own -------------------------------------------------------------------------------------


def test_limit_on_the_size_of_files_is_an_input_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(InputError) as caught, atomic_write(path, "wb", 5000) as file:
            file.write(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.where == str(path)
    assert caught.value.problem.endswith("4,000 of 5,000 bytes are missing")
    assert contents(tmp_path) == {"a.bin": b"old"}


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_disk_that_is_full_at_the_flush_is_an_input_error(tmp_path, number, monkeypatch):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("lmpipe.io.files.os.fsync", full)
    with pytest.raises(InputError, match="5 bytes were written"), atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"12345")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for error, name in ((FileNotFoundError, "source"), (IsADirectoryError, "."), (IsADirectoryError, "None")):
        Path("None").mkdir(exist_ok=True)
        with pytest.raises(error) as caught, atomic_write(tmp_path / "a.bin", "wb"):
            Path(name).read_bytes()
        assert caught.value.filename == name
    Path("None").rmdir()
    with pytest.raises(ConnectionResetError), atomic_write(tmp_path / "a.bin", "wb"):
        raise ConnectionResetError(errno.ECONNRESET, "the server has left")
    assert list(tmp_path.iterdir()) == []
