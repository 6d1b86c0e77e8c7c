import json
import re
from types import SimpleNamespace

import pytest

from lmpipe.planning.plan import load_plan
from lmpipe.planning.rule_inputs import RuleInputs, name_pattern
from tests.planning.test_plan import LAPTOP, plan_with

STUDY = LAPTOP | {
    "corpora": LAPTOP["corpora"] | {"docs": LAPTOP["corpora"]["docs"] | {"shards": 3}},
    "samples": LAPTOP["samples"],
}


@pytest.fixture(scope="module")
def inputs():
    return RuleInputs(load_plan(STUDY, "the laptop study"))


def job(**wildcards):
    """Return the wildcards of a job, as Snakemake passes them."""
    return SimpleNamespace(**wildcards)


RUN = job(experiment="no_pos_emb", run="baseline", seed="2")


def test_paths_of_a_run(inputs):
    tokens = [f"<results>/tokens/stories/{name}" for name in ("train.bin", "train.json", "valid.bin", "valid.json")]
    assert inputs.run_tokens(RUN) == [*tokens, "<results>/tokenizers/stories/vocab.json"]
    assert inputs.run_best(RUN) == ["<results>/experiments/learning_rate/best.json"]
    assert inputs.run_best(job(experiment="learning_rate", run="grid_max_lr=0.014", seed="0")) == []


def test_settings_of_a_run_are_its_own(inputs):
    settings = json.loads(inputs.run_settings(RUN))
    assert settings["training"]["max_lr"]["best_of"] == "learning_rate"
    assert settings["model"]["d_model"] == LAPTOP["model"]["d_model"]
    assert "corpora" not in settings and "experiments" not in settings


def test_sweep_that_others_wait_for_comes_first(inputs):
    sweep = inputs.run_priority(job(experiment="learning_rate", run="grid_max_lr=0.014", seed="0"))
    assert sweep > inputs.run_priority(RUN)
    assert inputs.best_priority(job(experiment="learning_rate")) > inputs.best_priority(job(experiment="no_pos_emb"))


def test_shards_are_in_order(inputs):
    shards = [f"<results>/tokens/docs/train-shards/{shard}.bin" for shard in range(3)]
    assert inputs.token_shards(".bin")(job(tokenizer="docs")) == shards
    assert inputs.pretoken_counts(job(tokenizer="docs")) == [f"<results>/pretokens/docs/{i}.npz" for i in range(3)]


def test_text_of_a_tokenizer(inputs):
    assert inputs.tokenizer_text(job(tokenizer="docs", split="valid")) == "<results>/corpora/docs/valid.txt"
    assert inputs.tokenizer_text(job(tokenizer="docs", shard="1")) == "<results>/corpora/docs/train.txt"


def test_resources_are_whole_numbers(inputs):
    for requests, wildcards in ((inputs.train, RUN), (inputs.train_bpe, job(tokenizer="docs")), (inputs.count, None)):
        assert requests.mem_mb(wildcards) >= 1000
        assert requests.runtime(wildcards) >= 60


def test_download_has_its_declarations_as_options():
    text = {"path": "https://example.org/a.txt.gz", "bytes": 5, "sha256": "ab" * 32}
    corpus = {"source": "files", "files": [text], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
    inputs = RuleInputs(plan_with({"x": {"corpus": "mine"}}, corpora={"mine": corpus}))
    (name,) = inputs.missing_texts
    assert inputs.download_arguments(job(text=name)) == [text["path"], "--bytes=5", f"--sha256={'ab' * 32}"]
    assert inputs.corpus_texts(job(corpus="mine")) == [f"resources/{name}"]
    more = plan_with({"x": {"corpus": "mine"}}, corpora={"mine": corpus | {"files": [text | {"text_bytes": 9}]}})
    own, other = (each.settings("corpus", "corpus")(job(corpus="mine")) for each in (inputs, RuleInputs(more)))
    assert own == other


@pytest.mark.parametrize(
    ("method", "wildcards", "near"),
    [
        ("run_tokens", job(experiment="no_pos_emb", run="base", seed="2"), "no_pos_emb/baseline/seed2"),
        ("tokenizer_text", job(tokenizer="doc", split="train"), "docs"),
        ("corpus_texts", job(corpus="storis"), "stories"),
        ("best_priority", job(experiment="no_pos"), "no_pos_emb"),
        ("sample_inputs", job(corpus="doc"), "docs"),
    ],
)
def test_unknown_name_ends_with_the_nearest_ones(inputs, method, wildcards, near):
    with pytest.raises(SystemExit, match=near) as caught:
        getattr(inputs, method)(wildcards)
    assert "\n" not in caught.value.code


def test_constraint_matches_some_names_or_none():
    assert re.fullmatch(name_pattern(["a.b", "c"]), "a.b")
    assert not re.fullmatch(name_pattern(["a.b", "c"]), "axb")
    assert not re.fullmatch(name_pattern([]), "")


def test_request_for_yardsticks_grows_with_the_tokens(inputs):
    small = inputs.yardsticks.mem_mb(job(corpus="stories"))
    training = STUDY["training"] | {"total_tokens": 10**9}
    large = RuleInputs(load_plan(STUDY | {"training": training}, "the laptop study")).yardsticks
    assert small == 2000 < large.mem_mb(job(corpus="stories")) < 12_000
