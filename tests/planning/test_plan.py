import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.io import PeriodicityDetector

from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.study.experiments import BestOf

CONFIG = Path(__file__).parents[2] / "config"
LAPTOP = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
MINE = {"source": "files", "files": ["a.txt"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}


def plan_with(experiments, **changes):
    study = copy.deepcopy(LAPTOP) | {"experiments": experiments} | changes
    del study["samples"]
    return load_plan(study, "test")


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        ({}, ["baseline"]),
        (
            {"sweep": {"max_lr": [0.003, 1e-05], "batch_size": [4]}},
            ["max_lr=0.003_batch_size=4", "max_lr=1e-05_batch_size=4"],
        ),
        ({"sweep": {"corpus": ["stories", "docs"]}}, ["corpus=stories", "corpus=docs"]),
        ({"runs": {"a": {}, "b": {"norm": "none", "sweep": {"d_ff": [8, 9]}}}}, ["a", "b_d_ff=8", "b_d_ff=9"]),
        (
            {"sweep": {"batch_size": [1, 2]}, "runs": {"a": {}, "b": {"d_ff": 288}}},
            ["a_batch_size=1", "a_batch_size=2", "b_batch_size=1", "b_batch_size=2"],
        ),
    ],
)
def test_runs_are_named_by_what_they_change(experiment, names):
    corpus = {} if "corpus" in experiment.get("sweep", {}) else {"corpus": "stories"}
    plan = plan_with({"x": corpus | experiment})
    assert [run.name for run in plan.runs] == names
    assert all(run.tokenizer == run.overrides.get("corpus", "stories") for run in plan.runs)


def test_settings_of_a_run_override_the_experiment():
    runs = {"a": {}, "b": {"batch_size": 3}}
    plan = plan_with({"x": {"corpus": "stories", "batch_size": 2, "d_model": 32, "runs": runs}})
    a, b = plan.runs_by_experiment["x"]
    assert (a.training.batch_size, b.training.batch_size) == (2, 3)
    assert a.model.d_model == b.model.d_model == 32
    assert a.training.weight_decay == LAPTOP["training"]["weight_decay"]


def test_each_run_has_each_seed():
    plan = plan_with({"x": {"corpus": "stories"}, "y": {"corpus": "stories", "seeds": [5, 6]}}, seeds=[1])
    assert [run.seed for run in plan.runs_by_experiment["x"]] == [1]
    assert [run.folder for run in plan.runs_by_experiment["y"]] == ["runs/y/baseline/seed5", "runs/y/baseline/seed6"]


def test_best_of_is_named_by_its_factor_and_resolved_later():
    sweep = {"batch_size": [4], "max_lr": {"best_of": "sweep", "scale": "sqrt_batch_size", "factor": [0.5, 1]}}
    plan = plan_with({"sweep": {"corpus": "stories"}, "batches": {"corpus": "stories", "sweep": sweep}})
    run, other = plan.runs_by_experiment["batches"]
    assert (run.name, other.name) == tuple(f"batch_size=4_max_lr=sqrt_batch_size-{factor}" for factor in (0.5, 1.0))
    assert run.best_of == "sweep"
    assert run.training.max_lr == BestOf(best_of="sweep", scale="sqrt_batch_size", factor=0.5)


def test_swept_vocabulary_size_is_another_tokenizer():
    plan = plan_with({"x": {"corpus": "stories", "sweep": {"vocab_size": [512, 1024], "context_length": [64]}}})
    assert [run.tokenizer for run in plan.runs_by_experiment["x"]] == ["stories-vocab_size=512", "stories"]
    assert plan.tokenizers == {
        "stories-vocab_size=512": ("stories", 512),
        "stories": ("stories", 1024),
        "docs": ("docs", 2048),
    }


def test_best_of_an_experiment_on_several_corpora_is_refused():
    runs = {"stories": {"corpus": "stories"}, "docs": {"corpus": "docs"}}
    tuned = {"corpus": "docs", "max_lr": {"best_of": "sweep"}}
    with pytest.raises(InputError, match=r"experiments\.later\.max_lr\.best_of is sweep"):
        plan_with({"sweep": {"runs": runs}, "later": tuned})


def test_downloads_are_named_by_checksum_or_address():
    addresses = [
        "https://h/x?download=1",
        f"https://h/{'ab' * 500}.txt",
        f"https://h/{'x' * 90}.txt",
        "https://h/a;'$(b)'?c",
    ]
    named = {"path": "https://h/data/big%20text.txt.gz", "sha256": "ab" * 32}
    corpus = MINE | {"files": [named, "https://h/..", *addresses]}
    plan = plan_with({"x": {"corpus": "mine"}}, corpora={"mine": corpus})
    paths = plan.study.corpora["mine"].text_paths()
    assert paths[0] == "resources/abababababab-big_20text.txt" and plan.downloads()[paths[0]].url == named["path"]
    assert paths[2].endswith("-x") and len(set(paths)) == len(paths)
    assert all(re.fullmatch(r"resources/[0-9a-f]{12}-[A-Za-z0-9._-]{1,100}", path) for path in paths)
    # Snakemake takes a name that ends in 20 repetitions for an endless loop.
    assert not any(map(PeriodicityDetector().is_periodic, paths))


def test_local_path_is_normalized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    files = ["texts//a.txt", f"//{tmp_path}/texts/a.txt"]
    plan = plan_with({"x": {"corpus": "mine"}}, corpora={"mine": MINE | {"files": files}})
    assert plan.study.corpora["mine"].text_paths() == ["texts/a.txt", f"{tmp_path}/texts/a.txt"]


def test_finding_a_package_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "__init__.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    corpus = {"source": "docstrings", "packages": ["outer.inner"], "tokenizer": {"vocab_size": 300}}
    with pytest.raises(InputError, match="not installed"):
        plan_with({"x": {"corpus": "mine"}}, corpora={"mine": corpus})
    assert not Path("ran").exists()


def test_new_release_of_a_package_is_a_new_corpus(monkeypatch):
    plan = load_plan(LAPTOP, "laptop")
    before = plan.study.corpora["docs"].text_settings()
    monkeypatch.setattr("lmpipe.study.corpora.version", lambda package: "99")
    assert plan.study.corpora["docs"].text_settings() != before


def test_planning_imports_nothing_heavy():
    heavy = "{'torch', 'numba', 'pandas', 'numpy', 'matplotlib'}"
    code = f"import sys, lmpipe.planning.snakemake_checks, lmpipe.cli.main; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "src/lmpipe/cli/training_commands.py"])
def test_documented_runs_are_runs_of_the_laptop_study(document):
    text = (CONFIG.parent / document).read_text(encoding="utf-8")
    names = re.findall(r"results/laptop[ /](?:runs/)?([\w.=-]+/[\w.=-]+/seed\d+)", text)
    assert names and {f"runs/{name}" for name in names} <= load_plan(LAPTOP, "laptop").runs_by_folder.keys()


def test_yardsticks_are_measured_at_the_tokens_of_longer_runs():
    experiments = {
        "short": {"corpus": "stories", "total_tokens": 1000, "runs": {"baseline": {}}},
        "long": {"corpus": "stories", "runs": {"half": {"total_tokens": 100_000}, "whole": {}}},
    }
    plan = plan_with(experiments, training=LAPTOP["training"] | {"total_tokens": 200_000})
    assert plan.yardstick_settings("stories") == {"corpus": "stories", "budgets": [100_000, 200_000]}
    assert plan.yardstick_settings("docs") == {"corpus": "docs", "budgets": [200_000]}
    with pytest.raises(InputError, match="no corpus named poems"):
        plan.yardstick_settings("poems")
