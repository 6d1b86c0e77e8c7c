"""Exact reruns: what was really computed after a change, a kill or a second call, in clones that may be edited."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random

import pytest
import yaml

from benchmarks.byte_check import differences
from benchmarks.endurance.killed_studies import StoreWatch, count_results
from benchmarks.endurance.processes import kill_all, poll, start, wait_until
from lmpipe.io.files import file_lock
from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import records
from tests.support.cli_cases import make_by_hand
from tests.support.work import Work, planned_outputs, read, stamps, work_since

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
PLAN = load_plan(STUDY, "the study")
# Edits of a clone's code: what takes seconds, and does not matter here.
SHORTER = (
    ("src/lmpipe/training/profiling.py", "MATMUL_SECONDS = [0-9.]+", "MATMUL_SECONDS = 0"),
    ("src/lmpipe/training/profiling.py", "MIN_TIMED_SECONDS = [0-9.]+", "MIN_TIMED_SECONDS = 0"),
    ("src/lmpipe/tokenizer/unicode_demo.py", r"return decode\(.*\) == text", "return text.isascii()"),
)
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
def finished(tmp_path_factory):
    """Return a clone in which a study was killed and then called twice at once, and the output of both calls.

    It is not to be changed.
    """
    folder = tmp_path_factory.mktemp("clone")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    clone = Clone(folder)
    clone.write(STUDY)
    for path, pattern, replacement in SHORTER:
        clone.edit(path, pattern, replacement)
    watch, logs = StoreWatch(clone.results()), [folder / f"{name}.log" for name in ("first", "second")]
    call = partial(start, clone.command(), folder, environment=clone.environment)
    results = Random(os.urandom(8)).randrange(round(0.9 * len(records(PLAN))))
    with call(folder / "killed.log") as process:
        wait_until(process, lambda: count_results(clone.results()) >= results, 0.5)
        assert kill_all(process), f"the study ended before {results} results were counted"
    watch.check()
    with call(logs[0]) as first, call(logs[1]) as second:
        for process in (first, second):
            for _ in poll(process):
                watch.check()
    outputs = [log.read_text(encoding="utf-8") for log in logs]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    return clone, outputs


@pytest.fixture
def clone(finished, tmp_path):
    """Return a copy of the finished clone, to be changed."""
    shutil.copytree(finished[0].folder, tmp_path / "copy")
    return Clone(tmp_path / "copy")


@pytest.fixture
def study():
    """Return the study, to be changed."""
    return copy.deepcopy(STUDY)


def test_second_call_waits_and_has_nothing_to_do(finished):
    _, outputs = finished
    assert sorted("Nothing to be done" in text for text in outputs) == [False, True]
    assert sorted("waiting for the snakemake that works on reruns" in text for text in outputs) == [False, True]


def test_killed_study_ends_with_the_results_of_the_commands_by_hand(finished, tmp_path):
    """`finished` checks that no run was trained again after a kill."""
    results = finished[0].results()
    assert list(differences(results, make_by_hand(STUDY, tmp_path), [])) == []
    assert [path for path in results.rglob("*") if ".tmp-" in path.name or path.name == "checkpoints"] == []
    assert work_since({}, results).trained == RUNS


@pytest.mark.parametrize("call", ["--dry-run", "--summary", "--rulegraph", "--lint"])
def test_a_call_without_jobs_does_not_wait_for_the_lock(finished, call):
    clone, _ = finished
    command = [sys.executable, "-m", "snakemake", call, "--configfile", str(STUDY_FILE)]
    with file_lock(clone.folder / ".snakemake/studies/reruns.lock"):
        done = subprocess.run(command, cwd=clone.folder, env=clone.environment, capture_output=True, text=True)
    # Of these, --lint finds that rules have no environment of their own.
    assert done.returncode == (call == "--lint") and "waiting" not in done.stderr


def test_comment_in_a_moved_clone_reruns_nothing(clone):
    clone.edit("src/lmpipe/model/transformer.py", "(?m)^import torch$", "# All of it.\nimport torch")
    clone.edit("src/lmpipe/model/transformer.py", '"""', '"""In other words: ')
    assert clone.work() == NOTHING


def test_formula_of_the_model_reruns_training(clone):
    run = "learning_rate/max_lr=0.03/seed0"
    before = read(clone.results() / f"runs/{run}/summary.json")
    clone.edit("src/lmpipe/model/transformer.py", r"sqrt\(2 / ", "sqrt(3 / ")
    planned = planned_outputs(clone.snakemake("--dry-run"))
    assert {f"runs/{name}/summary.json" for name in (*RUNS, "no_pos_emb/baseline/seed0")} <= planned
    assert {"samples", "experiments", "findings.json", "report.html"} <= kinds(planned)
    assert kinds(planned).isdisjoint(BEFORE_TRAINING)
    work = clone.work(f"results/reruns/runs/{run}/summary.json", "samples")
    assert work.trained == {run: STEPS, "main_experiment/more/seed0": STEPS_OF_MORE}
    assert kinds(work.results) == {"samples"}
    after = read(clone.results() / f"runs/{run}/summary.json")
    assert after["validation_loss"] != before["validation_loss"]


def test_new_learning_rate_trains_one_run(clone, study):
    study["experiments"]["learning_rate"]["sweep"]["max_lr"].append(1e-6)
    clone.write(study)
    work = clone.work()
    assert work.trained == {"learning_rate/max_lr=1e-06/seed0": STEPS}
    assert kinds(work.results).isdisjoint(BEFORE_TRAINING | {"samples"})


def test_new_seed_trains_its_runs(clone, study):
    study["experiments"]["no_pos_emb"]["seeds"].append(1)
    clone.write(study)
    planned = planned_outputs(clone.snakemake("--dry-run"))
    summaries = {path for path in planned if path.endswith("summary.json")}
    assert summaries == {f"runs/no_pos_emb/{run}/seed1/summary.json" for run in ("baseline", "no_position")}
    assert {path.split("/")[1] for path in planned if path.startswith("experiments/")} == {"no_pos_emb"}
    assert kinds(planned).isdisjoint(BEFORE_TRAINING | {"samples"})


def test_template_reruns_the_report(clone):
    for path in ("workflow/report/table.rst", "src/lmpipe/report/templates/report.css"):
        (clone.folder / path).write_text((clone.folder / path).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    work = clone.work()
    assert (work.trained, work.merges, work.encoded_bytes) == ({}, {}, {})
    assert kinds(work.results) == {"report.html", "figures"}, "what the report's job writes"


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
    assert kinds(work.results) >= dependent | {"findings.json", "report.html"}


def test_another_study_leaves_the_first_alone(clone, study):
    other = Path("config/other.yaml")
    clone.write(study | {"study": "other", "model": study["model"] | {"d_model": 32}}, other)
    tokenizer = partial(clone.work, "results/other/tokenizers/more/merges.txt", study_file=other, study="other")
    assert tokenizer().merges.keys() == {"more"}
    assert clone.work() == NOTHING
    assert tokenizer() == NOTHING


def kinds(names: Iterable[str]) -> set[str]:
    """Return the folders, or files, at the top of a study that hold some results."""
    return {name.split("/")[0] for name in names}
