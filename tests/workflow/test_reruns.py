"""Exact reruns: what was really computed after a change, a kill or a second call, in clones that may be edited."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.byte_check import differences
from lmpipe.io.files import file_lock
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import load_plan
from tests.support.cli_cases import make_by_hand
from tests.support.work import Work, read, stamps, work_since

BEFORE_TRAINING = {"corpora", "pretokens", "tokenizers", "tokens", "tokenizer_experiments.json", "unicode.json"}
NOTHING = Work({}, {}, {}, frozenset())
RATE_RUN, DOCS_RUN = "learning_rate/grid_max_lr=0.03/seed0", "main_experiment/docs/seed0"


@pytest.fixture
def clone(finished, tmp_path):
    """Return a copy of the finished clone, to be changed."""
    return finished.copy(tmp_path / "a copy")


def work(clone, *targets, results=None, **options):
    """Return the work of the README's command."""
    results = results or clone.results
    before = stamps(results)
    clone.snakemake(*targets, **options)
    return work_since(before, results)


def kinds(names: Iterable[str]) -> set[str]:
    """Return the folders, or files, at the top of a study that hold some results."""
    return {name.split("/")[0] for name in names}


def experiments(names: Iterable[str]) -> set[str]:
    """Return the experiments of which some plots are named."""
    return {name.split("/")[1] for name in names if name.startswith("experiments/") and name.endswith("table.csv")}


def test_second_call_waits_and_has_nothing_to_do(finished):
    outputs = [(finished.folder / f"{name}.log").read_text(encoding="utf-8") for name in ("first", "second")]
    assert sorted("Nothing to be done" in text for text in outputs) == [False, True]
    assert sorted("waiting for the snakemake that works on smoke" in text for text in outputs) == [False, True]


def test_killed_study_ends_with_the_results_of_the_commands_by_hand(finished, tmp_path):
    """`finished` checks that no run was trained again after a kill."""
    plan = load_plan(finished.study(), "smoke")
    assert list(differences(finished.results, make_by_hand(finished.study(), tmp_path), [])) == []
    assert [path for path in finished.results.rglob("*") if ".tmp-" in path.name or path.name == "checkpoints"] == []
    trained = work_since({}, finished.results).trained
    assert len(trained) == len(distinct_runs(plan)) < len(plan.runs), "runs that experiments share are trained once"


@pytest.mark.parametrize("call", ["--dry-run", "--summary", "--rulegraph", "--lint"])
def test_a_call_without_jobs_does_not_wait_for_the_lock(finished, call):
    with file_lock(finished.folder / ".snakemake/studies/smoke.lock"):
        done = finished.snakemake(call, cores=None, check=False)
    assert "waiting" not in done.stderr
    assert done.returncode == (call == "--lint")
    if call == "--lint":
        # Rules run in the environment that runs Snakemake: one environment for all, so none for each rule.
        findings = re.findall(r"^ *(\* .*)$", done.stdout + done.stderr, re.MULTILINE)
        assert set(findings) == {"* Specify a conda environment or container for each rule.:"}


def test_comment_in_a_moved_clone_and_another_study_rerun_nothing(clone):
    clone.edit("src/lmpipe/model/transformer.py", "(?m)^import torch$", "# All of it.\nimport torch")
    clone.edit("src/lmpipe/model/transformer.py", '"""', '"""In other words: ')
    study, other = clone.study(), Path("config/other.yaml")
    clone.write(study | {"study": "other", "model": study["model"] | {"d_model": 64}}, other)
    target = "results/other/tokenizers/stories/merges.txt"
    options = {"study": other, "results": clone.folder / "results/other"}
    assert work(clone, target, **options).merges.keys() == {"stories"}
    assert work(clone) == NOTHING
    assert work(clone, target, **options) == NOTHING


def test_formula_of_the_model_reruns_training(clone):
    path = clone.results / f"runs/{RATE_RUN}/summary.json"
    before, plan = read(path), load_plan(clone.study(), "smoke")
    clone.edit("src/lmpipe/model/transformer.py", r"sqrt\(2 / ", "sqrt(3 / ")
    done = work(clone)
    assert len(done.trained) == len(distinct_runs(plan))
    assert done.merges == done.encoded_bytes == {}
    assert kinds(done.results).isdisjoint(BEFORE_TRAINING)
    assert {"samples", "experiments", "findings.json", "report.html"} <= kinds(done.results)
    assert read(path)["validation_loss"] != before["validation_loss"]


def test_adopted_runs_are_not_trained_again(clone):
    """A sum in another order has the same bits, but is other code."""
    summaries = {path: path.read_bytes() for path in clone.results.glob("runs/*/*/*/summary.json")}
    clone.edit("src/lmpipe/model/transformer.py", r"x = x \+ self.attn\((.*)\)\n", r"x = self.attn(\1) + x\n")
    adopt = [sys.executable, "-m", "lmpipe.cli.main", "adopt", str(clone.results), "--steps", "3"]
    environment = os.environ | {"PYTHONPATH": str(clone.folder / "src")}
    done = subprocess.run(adopt, cwd=clone.folder, env=environment, capture_output=True, text=True)
    assert f"{len(summaries)} runs adopted" in done.stdout, done.stderr
    assert work(clone).trained == {}
    assert {path: path.read_bytes() for path in summaries} == summaries
    assert work(clone) == NOTHING


def test_new_learning_rate_trains_one_run(clone):
    study = clone.study()
    study["experiments"]["learning_rate"]["runs"]["grid"]["sweep"]["max_lr"].append(1e-6)
    clone.write(study)
    done = work(clone)
    assert done.trained.keys() == {"learning_rate/grid_max_lr=1e-06/seed0"}
    # Another rate may be the best one now: runs that take it are copied from the store, and samples are made again.
    assert kinds(done.results).isdisjoint(BEFORE_TRAINING)
    assert {"findings.json", "report.html"} <= kinds(done.results)


def test_new_seed_trains_its_runs(clone):
    study = clone.study()
    study["experiments"]["no_pos_emb"]["seeds"].append(3)
    clone.write(study)
    done = work(clone)
    assert done.trained.keys() == {f"no_pos_emb/{run}/seed3" for run in ("baseline", "no_position")}
    assert experiments(done.results) == {"no_pos_emb"}
    assert kinds(done.results).isdisjoint(BEFORE_TRAINING | {"samples"})


def test_template_reruns_the_report(clone):
    for path in ("workflow/report/table.rst", "src/lmpipe/report/templates/report.css"):
        (clone.folder / path).write_text((clone.folder / path).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    done = work(clone)
    assert (done.trained, done.merges, done.encoded_bytes) == ({}, {}, {})
    assert kinds(done.results) == {"report.html", "figures"}, "what the report's job writes"


def test_corpus_setting_reruns_what_depends_on_it(clone):
    study = clone.study()
    study["corpora"]["docs"]["packages"] = ["networkx", "jinja2"]
    clone.write(study)
    done = work(clone)
    assert done.trained.keys() == {DOCS_RUN}
    texts = [clone.results / f"corpora/docs/{split}.txt" for split in ("train", "valid")]
    assert done.encoded_bytes == {"docs": sum(text.stat().st_size for text in texts)}
    assert done.merges.keys() == {"docs"}
    others = ("corpora/stories", "pretokens/stories", "tokenizers/stories", "tokens/stories", "accounting", "unicode")
    assert not [name for name in done.results if name.startswith((*others, "yardsticks/stories", "samples/stories"))]
    assert experiments(done.results) == {"main_experiment"}
    dependent = {"corpora", "pretokens", "tokenizers", "tokens", "tokenizer_experiments.json", "samples"}
    assert kinds(done.results) >= dependent | {"findings.json", "report.html"}
