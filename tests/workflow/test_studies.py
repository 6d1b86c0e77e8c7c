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
from lmpipe.planning.plan import load_plan, read_plan
from lmpipe.study.editions import write_up
from lmpipe.study.problems import PROBLEMS, RESERVED_SECTIONS
from lmpipe.study.settings import ModelConfig
from tests.support.work import planned_jobs
from tests.workflow.test_workflow import snakemake

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
    assert {"gpt2_xl", "gpt2_xl_16k", "study"} <= set(plan.models)


@pytest.mark.parametrize("path", [path for path in STUDIES if path.stem != "smoke"], ids=stem)
def test_every_study_is_one_that_an_expert_would_accept(path):
    plan = read_plan(path)
    rates = sorted({run.training.max_lr for run in plan.runs_by_experiment["learning_rate"]})
    factors = [larger / smaller for smaller, larger in pairwise(rates)]
    assert len(rates) >= 6 and max(factors[:-1]) <= 4.2, "a logarithmic grid, and a last rate that should diverge"
    batches = plan.runs_by_experiment["batch_size_experiment"]
    assert min(run.training.batch_size for run in batches) == 1
    for run in batches:
        steps = run.training.total_tokens // (run.training.batch_size * run.model.context_length)
        assert steps >= 50
        equal_sizes = [candidate for candidate in batches if candidate.training.batch_size == run.training.batch_size]
        assert len(equal_sizes) >= 3, "each size has a choice of rates"
    for ablation in ("layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "swiglu_ablation"):
        assert len({run.seed for run in plan.runs_by_experiment[ablation]}) >= 3
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
        assert training.total_tokens == tokens
        assert tokens % (training.batch_size * 256) == 0, "no token of the budget is left over"


@pytest.mark.parametrize("path", LARGE, ids=stem)
def test_a_large_study_is_planned_and_told_without_any_file(tmp_path, path):
    planned = snakemake(tmp_path, "--dry-run", study=path)
    jobs = planned_jobs(planned.stdout)
    assert (jobs["download"], jobs["make_corpus"], jobs["train_bpe"], jobs["report"]) == (4, 2, 2, 1)
    assert jobs["train"] == len(read_plan(path).runs)
    assert planned.stderr.count(NOTICE) == 1
    assert f"{NOTICE}6.95 GB (14.5 GB as text) to resources/" in planned.stderr
    assert not (tmp_path / "resources").exists()


def test_a_start_with_one_tokenizer_fetches_one_corpus(tmp_path):
    """The small start that config/README.md shows."""
    target = "results/tinystories/tokenizers/tinystories/tokenizer.json"
    assert target in (CONFIG / "README.md").read_text(encoding="utf-8")
    planned = snakemake(tmp_path, "--dry-run", target, study=CONFIG / "tinystories.yaml")
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
        "source": "url",
        "files": [{"url": address, "text_bytes": 200 * 25}],
        "valid_fraction": 0.1,
        "tokenizer": {"vocab_size": 384},
        "stands_for": "TinyStories",
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    load_plan(study, "mine.yaml")
    target = "results/smoke/corpora/stories/corpus.json"
    first = snakemake(tmp_path, target, study=path)
    assert first.stderr.count(NOTICE) == 1, "by the process that was started, and by none of its jobs"
    assert first.stderr.index(NOTICE) < first.stderr.index("Building DAG")
    assert not [log for log in (tmp_path / "logs").rglob("*.log") if NOTICE in log.read_text(encoding="utf-8")]
    assert NOTICE not in snakemake(tmp_path, "--dry-run", study=path).stderr
