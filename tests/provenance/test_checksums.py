"""`lmpipe verify`: changed, missing and added files of a results folder."""

import os
import shutil
import subprocess

import pytest

from lmpipe.cli.main import main
from lmpipe.io.files import sha256_of
from lmpipe.provenance import checksums
from lmpipe.provenance.checksums import CHECKSUMS

RUN = "runs/main/baseline/seed0"
FILES = ["provenance.json", "findings.json", "tokens/stories/train.bin", f"{RUN}/config.json", f"{RUN}/provenance.json"]
OTHERS = (
    "store/0123/summary.json",
    "benchmarks/train.tsv",
    "tokens/.snakemake_timestamp",
    "a.bin.tmp-x",
    "session.json",
)


@pytest.fixture
def study(tmp_path):
    """Return a results folder with checksums, and entries that are not results."""
    folder = tmp_path / "results" / "small"
    for name in (*FILES, *OTHERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 100)
    (folder / CHECKSUMS).write_text("".join(f"{sha256_of(folder / name)}  {name}\n" for name in FILES))
    return folder


@pytest.fixture
def verify(capsys):
    """Run `lmpipe verify`; return the exit code, and the lines of standard output and standard error."""

    def run(folder):
        try:
            main(["verify", str(folder)])
            code = 0
        except SystemExit as caught:
            code = caught.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_untouched_study_agrees_in_any_folder(study, verify, tmp_path):
    assert verify(study) == (0, ["all 5 files agree"], [])
    shutil.move(study, tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere") == (0, ["all 5 files agree"], [])
    assert subprocess.run(["sha256sum", "-c", "--quiet", CHECKSUMS], cwd=tmp_path / "elsewhere").returncode == 0


def replace_by_link(path, target):
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda study: (study / "tokens/stories/train.bin").write_bytes(b"x"), "changed: tokens/stories/train.bin"),
        (lambda study: os.truncate(study / "findings.json", 5), "changed: findings.json"),
        (lambda study: replace_by_link(study / "findings.json", study / "session.json"), "changed: findings.json ("),
        (lambda study: (study / f"{RUN}/provenance.json").unlink(), f"missing: {RUN}/provenance.json"),
        (lambda study: (study / f"{RUN}/notes.txt").touch(), f"added: {RUN}/notes.txt"),
        (lambda study: (study / "a\nb\udcff").touch(), r"added: 'a\nb\udcff'"),
        (lambda study: (study / "linked").symlink_to(study.parent), "added: linked"),
        (lambda study: os.mkfifo(study / "pipe"), "added: pipe"),
    ],
)
def test_each_difference_is_one_line(study, verify, change, line):
    change(study)
    code, lines, errors = verify(study)
    assert (code, len(lines), errors) == (1, 2, [])
    assert lines[0].startswith(line)


def test_unreadable_file_is_changed(study, verify, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checksums, "sha256_of", refuse)
    code, lines, _ = verify(study)
    assert (code, len(lines)) == (1, len(FILES) + 1)


@pytest.mark.parametrize("path", ["/etc/passwd", "../small/findings.json", "runs/../../x", "runs//x", "."])
def test_nothing_outside_the_folder_is_read(study, verify, monkeypatch, path):
    with open(study / CHECKSUMS, "a") as file:
        file.write(f"{'0' * 64}  {path}\n")
    monkeypatch.setattr(checksums, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    code, lines, errors = verify(study)
    assert (code, lines, len(errors)) == (1, [], 1)


@pytest.mark.parametrize("content", [None, "{", "xyz  findings.json\n", "\0" * 100])
def test_missing_or_damaged_checksums_are_one_line(study, verify, content):
    (study / CHECKSUMS).unlink() if content is None else (study / CHECKSUMS).write_text(content)
    code, lines, errors = verify(study)
    assert (code, lines, len(errors)) == (1, [], 1)
    assert errors[0].startswith(f"lmpipe verify: {study / CHECKSUMS}: ")
