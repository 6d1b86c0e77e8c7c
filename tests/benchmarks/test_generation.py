"""The contest of benchmarks.generation, untimed: everyone makes as many tokens, and greedily the same ones."""

import pytest

from benchmarks.generation import SETTINGS, compare, prepared
from lmpipe.study.settings import ModelConfig

CONFIG = ModelConfig(context_length=48, d_model=32, d_ff=80, num_layers=2, num_heads=4, vocab_size=300)


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    return prepared(CONFIG, 2, str(tmp_path_factory.mktemp("contest")))


def test_greedy_continuations_agree_with_both_caches_of_transformers_and_without_a_cache(contest):
    ours = contest.lmpipe(0.0, 1.0, seed=0)
    assert [len(new_ids) for new_ids in ours] == [contest.new_tokens] * 2
    assert contest.new_tokens + len(contest.tokenizer.encode(contest.prompts[0])) == CONFIG.context_length
    assert ours == contest.uncached(0.0, 1.0, seed=0)
    for cache in ("dynamic", "static"):
        assert ours == contest.transformers(cache, 0.0, 1.0, seed=0)


def test_everyone_draws_as_many_tokens(contest):
    for draw in (contest.lmpipe, contest.uncached, lambda *given: contest.transformers("dynamic", *given)):
        first, second = draw(*SETTINGS["sampled"], 1)
        assert len(first) == len(second) == contest.new_tokens
        assert first != second


def test_a_row_tells_rates_and_their_ratio(contest, monkeypatch):
    monkeypatch.setattr("benchmarks.generation.LEAST_SECONDS", 0)
    cells = compare(contest, "uncached", "greedy", 1).split(" | ")
    assert cells[:2] == ["| greedy", "uncached"]
    assert len(cells) == 5
