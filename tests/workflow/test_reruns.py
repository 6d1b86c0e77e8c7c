"""Exact reruns: what was really computed after a change, a kill or a second call, in clones that may be edited."""

import copy
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest
import yaml

from benchmarks.endurance import killed_studies
from benchmarks.endurance.killed_studies import StoreWatch, killed_study
from benchmarks.endurance.processes import poll, start
from lmpipe.io.files import file_lock
from tests.support.work import Work, read, stamps, work_since

ROOT = Path(__file__).parents[2]
PROJECT = ["Snakefile", "config", "profiles", "src", "workflow"]
STUDY_FILE = Path("config/reruns.yaml")
STEPS, STEPS_OF_MORE = 40, 10
STUDY = {
    "study": "reruns",
    "seeds": [0],
    "corpora": {
        "stories": {
            "source": "stories",
            "documents": 150,
            "tokenizer": {"vocab_size": 300},
            "stands_for": "TinyStories",
        },
        "more": {"source": "stories", "documents": 200, "tokenizer": {"vocab_size": 310}, "stands_for": "OpenWebText"},
    },
    "model": {"context_length": 16, "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "training": {"total_tokens": 64 * STEPS, "batch_size": 4, "max_lr": 0.01, "num_evaluations": 2, "eval_tokens": 256},
    "experiments": {
        "learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.01, 0.03]}},
        "no_pos_emb": {
            "corpus": "stories",
            "seeds": [0],
            "max_lr": {"best_of": "learning_rate"},
            "runs": {"baseline": {}, "no_position": {"position_embedding": "none"}},
        },
        "main_experiment": {"total_tokens": 64 * STEPS_OF_MORE, "runs": {"more": {"corpus": "more"}}},
    },
    "accounting": {"models": {}, "device_memory_gb": 80},
    "samples": {
        "models": {"more": "main_experiment/more"},
        "prompts": ["Once"],
        "max_new_tokens": 8,
        "temperature": [0.0],
        "top_p": [1.0],
    },
}
RUNS = {
    "learning_rate/max_lr=0.01/seed0": STEPS,
    "learning_rate/max_lr=0.03/seed0": STEPS,
    "main_experiment/more/seed0": STEPS_OF_MORE,
    "no_pos_emb/no_position/seed0": STEPS,
}
BEFORE_TRAINING = {"corpora", "pretokens", "tokenizers", "tokens", "tokenizer_experiments.json", "unicode.json"}
NOTHING = Work({}, {}, {}, frozenset())


class Clone:
    """A clone of the project with its own code, in which a study is carried out."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(folder / "src")}

    def results(self, study: str = "reruns") -> Path:
        return self.folder / "results" / study

    def write(self, study: dict, path: Path = STUDY_FILE) -> None:
        (self.folder / path).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        file = self.folder / path
        text, num_edits = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), count=1)
        assert num_edits, pattern
        file.write_text(text, encoding="utf-8")

    def command(self, *targets: str, study_file: Path = STUDY_FILE) -> list[str]:
        return ["snakemake", "--cores", "2", *targets, "--configfile", str(study_file)]

    def snakemake(self, *targets: str, study_file: Path = STUDY_FILE) -> str:
        """Return the output of the README's command."""
        command = [sys.executable, "-m", *self.command(*targets, study_file=study_file)]
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout + result.stderr

    def work(self, *targets: str, study_file: Path = STUDY_FILE, study: str = "reruns") -> Work:
        """Return the work of the README's command."""
        before = stamps(self.results(study))
        self.snakemake(*targets, study_file=study_file)
        return work_since(before, self.results(study))


@pytest.fixture(scope="module")
def two_calls(tmp_path_factory):
    """Return a clone in which two calls ran at once, and the output of each; not to be changed."""
    folder = tmp_path_factory.mktemp("clone")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    clone = Clone(folder)
    clone.write(STUDY)
    watch, logs = StoreWatch(clone.results()), [folder / f"{name}.log" for name in ("first", "second")]
    call = partial(start, clone.command(), folder, environment=clone.environment)
    with call(logs[0]) as first, call(logs[1]) as second:
        for process in (first, second):
            for _ in poll(process):
                watch.check()
    logs_text = [log.read_text(encoding="utf-8") for log in logs]
    assert [first.returncode, second.returncode] == [0, 0], logs_text
    return clone, logs_text


@pytest.fixture
def clone(two_calls, tmp_path):
    """Return a copy of the finished clone, to be changed."""
    finished, _ = two_calls
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Clone(tmp_path / "copy")


@pytest.fixture
def study():
    """Return the study, to be changed."""
    return copy.deepcopy(STUDY)


def test_second_call_waits_and_has_nothing_to_do(two_calls):
    finished, logs_text = two_calls
    assert sorted("Nothing to be done" in text for text in logs_text) == [False, True]
    assert sorted("waiting for the snakemake that works on reruns" in text for text in logs_text) == [False, True]
    assert work_since({}, finished.results()).trained == RUNS


def test_moved_clone_reruns_nothing(two_calls):
    finished, _ = two_calls
    moved = finished.folder.rename(finished.folder.with_name("moved to another folder"))
    try:
        assert Clone(moved).work() == NOTHING
    finally:
        moved.rename(finished.folder)


def test_killed_study_ends_with_the_same_results(two_calls, tmp_path, monkeypatch):
    """Against the study of two calls, which in turn is shown to have been done right."""
    finished, _ = two_calls
    monkeypatch.setattr(killed_studies, "undisturbed", lambda study_file: finished.results())
    monkeypatch.setattr(killed_studies, "MAX_DELAY_SECONDS", 1.0)
    seed = os.urandom(8).hex()
    print(f"kills drawn from {seed}")
    assert killed_study(finished.folder / STUDY_FILE, 3, Random(seed), tmp_path) == "killed 3 times"


def test_comment_reruns_nothing(clone):
    clone.edit("src/lmpipe/model/transformer.py", "(?m)^import torch$", "# All of it.\nimport torch")
    clone.edit("src/lmpipe/model/transformer.py", '"""', '"""In other words: ')
    assert clone.work() == NOTHING


def test_formula_of_the_model_reruns_training(clone):
    before = read(clone.results() / "runs/learning_rate/max_lr=0.03/seed0/summary.json")
    clone.edit("src/lmpipe/model/transformer.py", r"sqrt\(2 / ", "sqrt(3 / ")
    work = clone.work()
    assert work.trained == RUNS
    assert work.merges == work.encoded_bytes == {}
    assert kinds(work).isdisjoint(BEFORE_TRAINING)
    assert kinds(work) >= {"samples", "experiments", "findings.json", "report.html"}
    after = read(clone.results() / "runs/learning_rate/max_lr=0.03/seed0/summary.json")
    assert after["validation_loss"] != before["validation_loss"]


def test_new_learning_rate_trains_one_run(clone, study):
    study["experiments"]["learning_rate"]["sweep"]["max_lr"].append(1e-6)
    clone.write(study)
    work = clone.work()
    assert work.trained == {"learning_rate/max_lr=1e-06/seed0": STEPS}
    assert kinds(work).isdisjoint(BEFORE_TRAINING | {"samples"})


def test_new_seed_trains_its_runs(clone, study):
    study["experiments"]["no_pos_emb"]["seeds"].append(1)
    clone.write(study)
    work = clone.work()
    assert work.trained == {"no_pos_emb/baseline/seed1": STEPS, "no_pos_emb/no_position/seed1": STEPS}
    experiments = {Path(name).parts[1] for name in work.results if name.startswith("experiments/")}
    assert experiments == {"no_pos_emb"}
    assert kinds(work).isdisjoint(BEFORE_TRAINING | {"samples"})


def test_template_reruns_the_report(clone):
    for path in ("workflow/report/table.rst", "src/lmpipe/report/templates/report.css"):
        (clone.folder / path).write_text((clone.folder / path).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    work = clone.work()
    assert (work.trained, work.merges, work.encoded_bytes) == ({}, {}, {})
    assert kinds(work) == {"report.html", "figures"}, "what the report's job writes"


def test_corpus_setting_reruns_what_depends_on_it(clone, study):
    study["corpora"]["more"]["documents"] += 1
    clone.write(study)
    work = clone.work()
    assert work.trained == {"main_experiment/more/seed0": STEPS_OF_MORE}
    texts = [clone.results() / f"corpora/more/{split}.txt" for split in ("train", "valid")]
    assert work.encoded_bytes == {"more": sum(text.stat().st_size for text in texts)}
    assert work.merges.keys() == {"more"}
    others = ("corpora/stories", "pretokens/stories", "tokenizers/stories", "tokens/stories", "accounting", "unicode")
    assert not [name for name in work.results if name.startswith(others)]
    assert {Path(name).parts[1] for name in work.results if name.startswith("experiments/")} == {"main_experiment"}
    dependent = {"corpora", "pretokens", "tokenizers", "tokens", "tokenizer_experiments.json", "samples"}
    assert kinds(work) >= dependent | {"findings.json", "report.html"}


def test_another_study_leaves_the_first_alone(clone, study):
    other = Path("config/other.yaml")
    clone.write(study | {"study": "other", "model": study["model"] | {"d_model": 32}}, other)
    at_first = partial(clone.work, "tokenizers", study_file=other, study="other")
    assert at_first().merges.keys() == {"stories", "more"}
    assert clone.work() == NOTHING
    assert at_first() == NOTHING


@pytest.mark.parametrize("call", ["--dry-run", "--summary", "--rulegraph"])
def test_a_call_without_jobs_does_not_wait_for_the_lock(clone, study, call):
    study["corpora"]["more"]["documents"] += 1
    clone.write(study)
    command = [sys.executable, "-m", "snakemake", call, "--configfile", str(STUDY_FILE)]
    with file_lock(clone.folder / ".snakemake/studies/reruns.lock"):
        done = subprocess.run(command, cwd=clone.folder, env=clone.environment, capture_output=True, text=True)
    assert done.returncode == 0 and "waiting" not in done.stderr


def kinds(work: Work) -> set[str]:
    """Return the folders, or files, at the top of a study that hold what was made."""
    return {Path(name).parts[0] for name in work.results}
