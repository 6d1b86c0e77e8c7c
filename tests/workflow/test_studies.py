"""The shipped studies: complete, pinned, planned without a single file, and announced before they fetch anything."""

import functools
import http.server
import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lmpipe.model.accounting import count_parameters
from lmpipe.planning.cost_model import run_cost
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import read_plan
from lmpipe.study.editions import write_up
from lmpipe.study.problems import ABLATIONS, PROBLEMS, RESERVED_SECTIONS
from lmpipe.study.settings import ModelConfig
from tests.support.work import planned_jobs
from tests.support.workflow import call_snakemake

CONFIG = Path(__file__).parents[2] / "config"
STUDIES = sorted(CONFIG.glob("*.yaml"))
LARGE = [CONFIG / "cs336.yaml", CONFIG / "tinystories.yaml"]
NOTICE = "This study downloads "
# Repository and revision, as they stand in an address.
PINNED = r"https://huggingface\.co/datasets/[a-zA-Z0-9-]+/[a-zA-Z-]+/resolve/[0-9a-f]{40}/[A-Za-z0-9_-]+\.txt(\.gz)?"


def stem(path):
    return path.stem


@pytest.mark.parametrize("path", STUDIES, ids=stem)
def test_every_study_answers_every_problem(path):
    plan = read_plan(path)
    experiments = set(PROBLEMS) - RESERVED_SECTIONS
    assert len(experiments) == 7
    assert experiments <= set(plan.runs_by_experiment)
    assert all(len(plan.runs_by_experiment[problem]) > 1 for problem in experiments)
    assert {corpus.stands_for for corpus in plan.study.corpora.values()} >= {"TinyStories", "OpenWebText"}
    assert set(plan.study.samples.models) == set(plan.study.corpora)
    assert {"gpt2_xl_2025", "gpt2_xl_16k_2026", "study"} <= set(plan.models)


@pytest.mark.parametrize("path", [path for path in STUDIES if path.stem != "smoke"], ids=stem)
def test_every_study_is_one_that_an_expert_would_accept(path):
    plan = read_plan(path)
    grid = [run for run in plan.runs_by_experiment["learning_rate"] if run.name.startswith("grid")]
    edge = [run for run in plan.runs_by_experiment["learning_rate"] if run.name.startswith("edge")]
    assert len(grid) >= 4 and edge[-1].training.max_lr > 1, "up to where training should diverge"
    for runs in (grid, edge):
        values = [run.training.max_lr for run in runs]
        assert all(larger / smaller == pytest.approx(2, rel=0.03) for smaller, larger in pairwise(values))
    assert max(run.training.total_tokens for run in edge) * 5 < grid[0].training.total_tokens
    batches = plan.runs_by_experiment["batch_size_experiment"]
    assert min(run.training.batch_size for run in batches) == 1
    for run in batches:
        assert run.training.steps(run.model.context_length) >= 25
        assert run.training.warmup_steps(run.model.context_length) >= 10
        equal_sizes = [candidate for candidate in batches if candidate.training.batch_size == run.training.batch_size]
        assert len(equal_sizes) >= 3, "each size has a choice of rates"
    for ablation in ABLATIONS:
        for run in plan.runs_by_experiment[ablation]:
            source = next(other for other in plan.runs_by_experiment[run.best_of] if other.name.startswith("grid"))
            assert (source.model, source.training.total_tokens) == (run.model, run.training.total_tokens)
            assert run.training.steps(run.model.context_length) >= 600
            assert source.seed != run.seed, "the rate is chosen on another seed"
        assert len({run.seed for run in plan.runs_by_experiment[ablation]}) >= 3
        experiment = plan.study.experiments[ablation]
        assert [bool(run.expect and run.expect.source) for run in experiment.runs.values()] == [False, True]
    evaluated = sum(run_cost(plan, run).evaluation_flops for run in distinct_runs(plan))
    trained = sum(run_cost(plan, run).training_flops for run in distinct_runs(plan))
    assert evaluated < 0.25 * trained
    models = [
        ModelConfig(vocab_size=1024, **run.model.model_dump(mode="json"))
        for run in plan.runs_by_experiment["swiglu_ablation"]
    ]
    assert {model.feed_forward for model in models} == {"swiglu", "silu"}
    assert len({count_parameters(model).total for model in models}) == 1, "matched to the parameter"


@pytest.mark.parametrize("path", LARGE, ids=stem)
def test_texts_are_pinned_and_those_of_the_write_up(path):
    plan = read_plan(path)
    texts = plan.downloads()
    assert len(texts) == 4
    for text in texts.values():
        assert re.fullmatch(PINNED, text.url), text.url
        assert text.bytes and text.text_bytes and text.sha256
        assert text.is_compressed or text.bytes == text.text_bytes
    for corpus, original in (("tinystories", "TinyStories"), ("openwebtext", "OpenWebText")):
        (train,) = plan.study.corpora[corpus].files
        reference = write_up().texts[original]
        assert (train.sha256, train.text_bytes) == (reference.train_sha256, reference.train_bytes)
        assert plan.study.corpora[corpus].tokenizer.vocab_size == reference.vocab_size


@pytest.mark.parametrize(
    ("study", "tokens", "target"), [("tinystories", 40_960_000, 2.0), ("cs336", 327_680_000, 1.45)]
)
def test_runs_have_the_handouts_model_tokens_and_target(study, tokens, target):
    plan = read_plan(CONFIG / f"{study}.yaml")
    assert plan.study.experiments["learning_rate"].target_loss == target
    for run in plan.runs:
        model, training = run.model, run.training
        shape = (model.context_length, model.d_model, model.num_layers, model.num_heads, model.rope_theta)
        assert shape == (256, 512, 4, 16, 10000.0)
        assert model.d_ff == 1344 if model.feed_forward == "swiglu" else model.d_ff >= 2016
        is_shorter = run.name.startswith("edge") or run.experiment in ("batch_size_experiment", "token_budget")
        assert training.total_tokens == tokens if not is_shorter else training.total_tokens < tokens
        assert training.total_tokens % (training.batch_size * 256) == 0, "no token of the budget is left over"


def test_a_large_study_is_planned_and_told_without_any_file(tmp_path):
    planned = call_snakemake(tmp_path, "--dry-run", "--configfile", LARGE[0])
    jobs = planned_jobs(planned.stdout)
    assert (jobs["download"], jobs["make_corpus"], jobs["train_bpe"], jobs["report"]) == (4, 2, 2, 1)
    assert jobs["train"] == len(read_plan(LARGE[0]).runs)
    assert planned.stderr.count(NOTICE) == 1
    assert f"{NOTICE}6.95 GB (14.5 GB as text) to resources/" in planned.stderr
    assert not (tmp_path / "resources").exists()


def test_a_start_with_one_tokenizer_fetches_one_corpus(tmp_path):
    """The small start that config/README.md shows."""
    target = "results/tinystories/tokenizers/tinystories/tokenizer.json"
    assert target in (CONFIG / "README.md").read_text(encoding="utf-8")
    planned = call_snakemake(tmp_path, "--dry-run", target, "--configfile", LARGE[1])
    assert planned_jobs(planned.stdout)["download"] == 2
    assert "owt_train" not in planned.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_):
        pass


@pytest.fixture
def address(tmp_path):
    """Yield the address of a server on this machine that has a text."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "text.txt").write_text("A cat sat.\n<|endoftext|>\n" * 200, encoding="utf-8")
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/text.txt"
        server.shutdown()


def test_a_user_is_told_once_and_not_again_when_the_texts_are_there(tmp_path, address):
    study = yaml.safe_load((CONFIG / "smoke.yaml").read_text(encoding="utf-8"))
    study["corpora"]["stories"] = {
        "source": "files",
        "files": [{"path": address, "text_bytes": 200 * 25}],
        "valid_fraction": 0.1,
        "tokenizer": {"vocab_size": 384},
        "stands_for": "TinyStories",
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    call = ["results/smoke/corpora/stories/corpus.json", "--configfile", "mine.yaml"]
    first = call_snakemake(tmp_path, *call)
    assert first.stderr.count(NOTICE) == 1, "by the process that was started, and by none of its jobs"
    assert first.stderr.index(NOTICE) < first.stderr.index("Building DAG")
    assert not [log for log in (tmp_path / "logs").rglob("*.log") if NOTICE in log.read_text(encoding="utf-8")]
    assert NOTICE not in call_snakemake(tmp_path, "--dry-run", *call).stderr
