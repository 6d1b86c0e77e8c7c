import json
import os
import shutil
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.io.files import atomic_write, write_json
from lmpipe.provenance import checksums as module
from lmpipe.provenance.job_records import RECORD, JobResult, result_files, run_recorded

RUN = "runs/main/baseline/seed0"
JOBS = {
    "encode": ("tokens/stories/train.bin", ["tokens/stories/train.bin", "tokens/stories/train.json"]),
    "train": (RUN, [f"{RUN}/config.json", f"{RUN}/model.safetensors"]),
    "analyze": ("findings.json", ["findings.json", "figures/losses.svg"]),
}
FILES = 9


def write_files(paths, output):
    for path in paths:
        with atomic_write(path, "wb") as file:
            file.write(path.name.encode() * 1000)
    return JobResult(output)


@pytest.fixture
def study(tmp_path):
    """The results folder of a study of three jobs, with what else lies there."""
    folder = tmp_path / "results" / "small"
    for verb, (output, files) in JOBS.items():
        paths = [folder / path for path in files]
        run_recorded(verb, {}, ["io.files"], lambda paths=paths, output=output: write_files(paths, folder / output))
    records = {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in folder.rglob(f"*{RECORD}")}
    collected = {"study": "small", "settings": {}, "records": records, "files": result_files(records)}
    write_json(folder / RECORD, collected)
    for name in ("store/0123/summary.json", "benchmarks/train.tsv", "figures/.snakemake_timestamp", "a.bin.tmp-xyz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def verify(capsys):
    """Verify a folder by the command; the exit code, the lines of standard output, and those of standard error."""

    def run(folder):
        try:
            main(["verify", str(folder)])
            code = 0
        except SystemExit as caught:
            code = caught.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def test_an_untouched_study_agrees_wherever_it_lies(study, verify, tmp_path):
    assert verify(study) == (0, [f"all {FILES} files agree"], [])
    shutil.move(study, tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere") == (0, [f"all {FILES} files agree"], [])


def replaced(path, target):
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (
            lambda study: flip_a_byte(study / "tokens/stories/train.bin"),
            "changed: tokens/stories/train.bin (expected 9,000 bytes with sha256 ",
        ),
        (lambda study: flip_a_byte(study / RUN / "model.safetensors"), f"changed: {RUN}/model.safetensors (expected "),
        (lambda study: os.truncate(study / "findings.json", 5), "changed: findings.json (expected 13,000 bytes with "),
        (lambda study: (study / "figures/losses.svg").unlink(), "missing: figures/losses.svg"),
        (lambda study: (study / RUN / RECORD).unlink(), f"missing: {RUN}/provenance.json"),
        (lambda study: (study / RUN / "notes.txt").touch(), f"added: {RUN}/notes.txt (a file of a former state of "),
        (lambda study: write_json(study / "runs/old/seed0/config.json", {}), "added: runs/old/seed0/config.json (a "),
        (lambda study: write_json(study / "runs/store/x.json", {}), "added: runs/store/x.json (a "),
        (lambda study: (study / "a\nb\udcff").touch(), r"added: 'a\nb\udcff' (a file"),
        (lambda study: (study / "linked").symlink_to(study.parent), "added: linked (a symbolic link"),
        (lambda study: os.mkfifo(study / "pipe"), "added: pipe (a special file"),
        (
            lambda study: replaced(study / "findings.json", study / "tokens/stories/train.json"),
            "changed: findings.json (expected a file, found a symbolic link)",
        ),
        (
            lambda study: edit(study / RUN / RECORD, lambda record: record.update(commit="another")),
            f"changed: {RUN}/provenance.json (expected ",
        ),
        (
            lambda study: edit(study / RECORD, lambda whole: whole["files"]["findings.json"].update(bytes=1)),
            "changed: provenance.json (its list of files and its records do not agree on findings.json)",
        ),
        (
            lambda study: edit(study / RECORD, lambda whole: whole["files"].pop("findings.json")),
            "changed: provenance.json (its list of files and its records do not agree on findings.json)",
        ),
    ],
)
def test_each_file_that_is_not_as_it_was_made_is_one_line(study, verify, do, line):
    do(study)
    code, lines, errors = verify(study)
    assert code == 1
    assert lines[0].startswith(line)
    assert lines[1].startswith("different: 1 of ")
    assert len(lines) == 2
    assert errors == []


def test_a_copy_of_a_record_that_was_edited_is_noticed(study, verify):
    edit(study / RECORD, lambda whole: whole["records"][f"{RUN}/{RECORD}"].update(commit="another"))
    code, lines, _ = verify(study)
    assert code == 1
    assert lines[0].startswith(f"changed: {RECORD} (its list of files and its records do not agree on {RUN}/{RECORD}")
    assert lines[1].startswith(f"changed: {RUN}/{RECORD} (expected ")


def test_several_lines_are_in_order(study, verify):
    (study / "findings.json").unlink()
    flip_a_byte(study / "tokens/stories/train.bin")
    (study / "new.txt").touch()
    code, lines, _ = verify(study)
    assert code == 1
    words = [line.split(" (")[0] for line in lines]
    assert words[:3] == ["added: new.txt", "changed: tokens/stories/train.bin", "missing: findings.json"]
    assert lines[3].startswith(f"different: 3 of {FILES + 1} files; ")


def test_a_linked_folder_is_not_entered(study, verify):
    shutil.move(study / "tokens", study.parent / "tokens")
    (study / "tokens").symlink_to(study.parent / "tokens")
    _, lines, _ = verify(study)
    assert lines[0].startswith("added: tokens (a symbolic link")
    assert [line for line in lines if line.startswith("missing: tokens/stories/train.bin")]


def test_a_file_that_cannot_be_read_is_told(study, verify, monkeypatch):
    checksum = module.sha256_of

    def refuse(path):
        if path.name == "findings.json":
            raise PermissionError(13, "Permission denied", str(path))
        return checksum(path)

    monkeypatch.setattr(module, "sha256_of", refuse)
    code, lines, _ = verify(study)
    assert (code, lines[0]) == (1, "changed: findings.json (cannot be read: Permission denied)")


@pytest.mark.parametrize("path", ["/etc/passwd", "../small/findings.json", "runs/../../x", "runs//x", ".", ""])
@pytest.mark.parametrize("place", ["files", "records", "outputs"])
def test_nothing_outside_the_folder_is_read(study, verify, monkeypatch, path, place):
    def change(whole):
        changed = whole["records"]["findings.provenance.json"]["outputs"] if place == "outputs" else whole[place]
        changed[path] = next(iter(changed.values()))

    edit(study / RECORD, change)
    monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    code, lines, errors = verify(study)
    assert (code, lines, len(errors)) == (1, [], 1)
    assert f"{RECORD}: " in errors[0] and "expected a path inside the folder, found" in errors[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected the collected records of a study, found no such file; name the study's folder, or let "),
        ("{", "is not valid JSON"),
        ("[]", "is []"),
        ('{"verb": "train", "outputs": {}}', "study is missing; name the study's folder"),
        ('{"study": "s", "records": {}, "files": {"a": {"bytes": 1, "sha256": "x"}}}', "files.a.sha256 is 'x', not "),
    ],
)
def test_what_is_no_collection_is_one_line(study, verify, content, message):
    (study / RECORD).unlink()
    if content is not None:
        (study / RECORD).write_text(content)
    code, lines, errors = verify(study)
    assert (code, lines, len(errors)) == (1, [], 1)
    assert errors[0].startswith(f"lmpipe verify: {study / RECORD}: {message}")


def test_a_linked_collection_is_refused(study, verify):
    shutil.move(study / RECORD, study.parent / RECORD)
    (study / RECORD).symlink_to(study.parent / RECORD)
    code, _, errors = verify(study)
    assert code == 1
    assert "expected the collected records of a study, found something else" in errors[0]


def test_a_folder_that_is_none(verify, tmp_path):
    code, _, errors = verify(Path(tmp_path / "nowhere"))
    assert code == 1
    assert "nowhere/provenance.json: expected the collected records of a study, found no such file" in errors[0]
