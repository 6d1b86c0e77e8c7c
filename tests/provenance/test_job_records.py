import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.io.files import write_json
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import write_study
from lmpipe.planning.stages import records
from lmpipe.provenance.checksums import collect_records
from lmpipe.provenance.job_records import (
    RECORD,
    JobRecord,
    JobResult,
    StudyProvenance,
    input_files,
    record_path,
    run_with_record,
)
from lmpipe.study.paths import StudyPaths
from tests.support.fake_results import EXPERIMENTS, MODEL, TRAINING
from tests.support.tiny_study import MODEL as TINY_MODEL
from tests.support.tiny_study import TRAINING as TINY_TRAINING
from tests.support.tiny_study import make_tiny_study, tiny_text

STORIES = {
    "source": "stories",
    "documents": 100,
    "tokenizer": {"vocab_size": 300},
    "stands_for": "TinyStories",
    "shards": 2,
}
STUDY = {
    "study": "small",
    "seeds": [0],
    "corpora": {"stories": STORIES},
    "model": MODEL,
    "training": TRAINING,
    "experiments": {name: EXPERIMENTS[name] for name in ("learning_rate", "no_pos_emb")},
}


ENCODE = ["encode", "--text", "train.txt", "--tokenizer", "bpe/c", "--output", "tokens/train.bin"]


def record_of(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def checksums(folder, *names):
    """Return the entries of files that a record should have."""
    contents = {name: (folder / name).read_bytes() for name in names}
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Return a folder in which a text was counted, a tokenizer trained, and the text encoded."""
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("train.txt").write_text(tiny_text(50, seed=0), encoding="utf-8")
        main(["count-pretokens", "--text", "train.txt", "--output", "counts/0.npz"])
        main(["train-bpe", "--counts", "counts/0.npz", "--corpus", "c", "--vocab-size", "262", "--output", "bpe/c"])
        main(ENCODE)
    return folder


def test_every_result_has_a_record_of_its_files(tokens):
    expected = {
        "counts/0.provenance.json": ("0.npz", "0.json"),
        "bpe/c/provenance.json": ("vocab.json", "merges.txt", "tokenizer.json", "ranks.tiktoken", "training.json"),
        "tokens/train.provenance.json": ("train.bin", "train.json"),
    }
    assert {path.relative_to(tokens).as_posix() for path in tokens.rglob(f"*{RECORD}")} == set(expected)
    for path, names in expected.items():
        assert record_of(tokens / path)["outputs"] == checksums((tokens / path).parent, *names)
    inputs = record_of(tokens / "tokens/train.provenance.json")["inputs"]
    for name, info in record_of(tokens / "bpe/c/provenance.json")["outputs"].items():
        assert inputs[f"../bpe/c/{name}"] == info
    # A text of the user's has no record, and is not read once more for its checksum.
    assert inputs["../train.txt"] == {"bytes": (tokens / "train.txt").stat().st_size, "sha256": None}


def test_record_has_command_settings_and_code(tokens):
    record = record_of(tokens / "bpe/c/provenance.json")
    assert record["command"] == "train-bpe"
    arguments = {"counts": ["counts/0.npz"], "corpus": "c", "vocab_size": 262, "output": "bpe/c"}
    assert record["arguments"] == arguments
    assert {"tokenizer.bpe_training", "tokenizer.vocabulary", "regex"} <= set(record["code"])
    assert {"python", "lmpipe", "torch", "regex"} <= set(record["versions"])
    assert set(record) >= {"commit", "dirty", "hardware", "seeds"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record["started_at"])
    assert 0 < record["wall_seconds"] < 60
    assert record["peak_memory_bytes"] > 10**7


def test_file_whose_name_is_not_utf8_leaves_a_record_that_can_be_read(tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, counts = Path(os.fsdecode(b"\xff.txt")), os.fsdecode(b"\xfe.npz")
    text.write_bytes((tokens / "train.txt").read_bytes())
    for _ in range(2):
        main(["count-pretokens", "--text", str(text), "--output", counts])
    assert JobRecord.read(record_path(counts)).arguments["text"] == "\\udcff.txt"


def test_only_records_depend_on_time_and_failures_leave_none(tokens, monkeypatch):
    monkeypatch.chdir(tokens)
    before = {path: path.read_bytes() for path in (tokens / "tokens").iterdir()}
    main(ENCODE)
    assert {path.name for path, content in before.items() if path.read_bytes() != content} <= {"train.provenance.json"}
    Path("empty.txt").touch()
    with pytest.raises(SystemExit):
        main(["encode", "--text", "empty.txt", "--tokenizer", "bpe/c", "--output", "other/train.bin"])
    assert not list(tokens.glob("other/*"))


def test_a_file_in_a_folder_below_its_record_is_found(tmp_path):
    def draw():
        write_json(tmp_path / "findings.json", {})
        write_json(tmp_path / "figures/one.json", [1])
        return JobResult(tmp_path / "findings.json")

    run_with_record("analyze", {}, ["io.files"], draw)
    write_json(tmp_path / RECORD, {"study": "x", "settings": {}, "records": {}})
    (tmp_path / "study.yaml").touch()
    (tmp_path / "figures/.snakemake_timestamp").touch()
    inputs = input_files([tmp_path / "figures", tmp_path / "findings.json"], tmp_path)
    assert {name: info.model_dump() for name, info in inputs.items()} == checksums(
        tmp_path, "figures/one.json", "findings.json"
    )


def test_record_has_settings_and_seeds_and_no_default_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = STUDY | {"corpora": {"stories": STORIES | {"seed": 7}}}
    write_study(load_plan(study, "the small study"), StudyPaths(tmp_path / "results/small"))
    main(["make-corpus", "results/small", "stories"])
    record = record_of(tmp_path / "results/small/corpora/stories" / RECORD)
    assert record["arguments"] == {"results": "results/small", "corpus": "stories"}
    assert record["settings"] == {"name": "stories", "source": "stories", "documents": 100, "seed": 7}
    assert record["seeds"] == [7]
    assert set(record["outputs"]) == {"train.txt", "valid.txt", "corpus.json"}


def test_record_of_a_copied_run_has_the_environment_that_trained_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = make_tiny_study(Path("results/tiny"))
    corpus = STORIES | {"tokenizer": {"vocab_size": 263}, "shards": 1}
    settings = {"model": TINY_MODEL, "training": TINY_TRAINING | {"total_tokens": 16 * 4 * 5}}
    experiments = {"x": {"corpus": "tiny", "runs": {"first": {}, "second": {}}}}
    study = STUDY | settings | {"corpora": {"tiny": corpus}, "experiments": experiments}
    write_study(load_plan(study, "the tiny study"), StudyPaths(results))
    for run in ("first", "second"):
        main(["train", str(results), f"x/{run}/seed0"])
        # Another machine and another commit than this one's trained what is in the store.
        [stored] = results.glob("store/*/summary.json")
        summary = record_of(stored)
        summary["environment"] |= {"commit": "f" * 40, "dirty": False}
        summary["environment"]["hardware"]["processor"] = "another"
        write_json(stored, summary)
    first, second = (record_of(results / f"runs/x/{run}/seed0" / RECORD) for run in ("first", "second"))
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert first["hardware"]["processor"] != "another"
    assert (second["commit"], second["dirty"]) == ("f" * 40, False)
    assert second["hardware"] == first["hardware"] | {"processor": "another"}
    assert second["code"] == first["code"]
    assert second["train_seconds"] == first["train_seconds"] > 0
    assert set(second["outputs"]) == {"config.json", "metrics.csv", "model.safetensors", "summary.json"}
    assert {"../../../../tokens/tiny/train.bin", "../../../../tokenizers/tiny/vocab.json"} <= set(second["inputs"])


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Return a results folder with a record for every job of the small study, and their collection."""
    plan, folder = load_plan(STUDY, "the small study"), tmp_path_factory.mktemp("collected")
    for path in records(plan):
        fills_folder = Path(path).name == RECORD
        output = (folder / path).parent / "a.json" if fills_folder else folder / path.replace(RECORD, "json")
        result = JobResult(output.parent if fills_folder else output)
        run_with_record(
            "analyze", {}, ["io.files"], lambda output=output, result=result: write_json(output, 0) or result
        )
    collect_records(records(plan), STUDY, folder, folder / RECORD)
    return folder


def test_collection_has_every_record_and_every_checksum(collected):
    study = StudyProvenance.read(collected / RECORD)
    assert study.settings == STUDY
    assert {"pretokens/stories/0.provenance.json", "pretokens/stories/1.provenance.json"} <= set(study.records)
    assert "experiments/learning_rate/best.provenance.json" in study.records
    assert "experiments/no_pos_emb/best.provenance.json" not in study.records, "no rate is taken from it"
    assert "pretokens/stories/0.json" in study.files
    for path, record in study.records.items():
        assert record == JobRecord.read(collected / path)
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=collected, capture_output=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2 * len(study.records) + 1


@pytest.mark.parametrize("content", [None, "{", "{}", '{"outputs": {"../x": {"bytes": 1, "sha256": ""}}}'])
def test_missing_or_damaged_record_is_refused(collected, content):
    path = collected / "unicode.provenance.json"
    record = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError) as caught:
        collect_records(records(load_plan(STUDY, "the small study")), STUDY, collected, collected / RECORD)
    path.write_text(record)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("output", "record"),
    [
        ("unicode.json", "unicode.provenance.json"),
        ("accounting/gpt2.xl.json", "accounting/gpt2.xl.provenance.json"),
        ("report.html", "report.provenance.json"),
        ("max_lr=0.003", "max_lr=0.003/provenance.json"),
    ],
)
def test_names_of_records(tmp_path, output, record):
    (tmp_path / "max_lr=0.003").mkdir()
    assert record_path(tmp_path / output) == tmp_path / record
