"""The contest of benchmarks.generation, untimed: all contestants generate as many tokens, greedily the same ones."""

import pytest

from benchmarks import generation
from benchmarks.generation import SETTINGS, compare, prepare
from lmpipe.study.settings import ModelConfig

CONFIG = ModelConfig(context_length=48, d_model=32, d_ff=80, num_layers=2, num_heads=4, vocab_size=300)


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    return prepare(CONFIG, 2, str(tmp_path_factory.mktemp("contest")))


def test_greedy_continuations_agree_with_both_caches_of_transformers(contest):
    continuations = contest.lmpipe(0.0, 1.0, seed=0)
    assert [len(new_ids) for new_ids in continuations] == [contest.new_tokens] * 2
    assert contest.new_tokens + len(contest.tokenizer.encode(contest.prompts[0])) == CONFIG.context_length
    for cache in ("dynamic", "static"):
        assert continuations == contest.transformers(cache, 0.0, 1.0, seed=0)


def test_sampled_continuations_have_equal_lengths(contest):
    for sample in (contest.lmpipe, lambda *options: contest.transformers("dynamic", *options)):
        first, second = sample(*SETTINGS["sampled"], 1)
        assert len(first) == len(second) == contest.new_tokens
        assert first != second


def test_row_has_both_rates_and_other_greedy_tokens_end_the_contest(contest, monkeypatch):
    monkeypatch.setattr(generation, "MIN_SECONDS", 0)
    cells = compare(contest, "dynamic", "greedy", 1).split(" | ")
    assert cells[:2] == ["| greedy", "dynamic"] and len(cells) == 5
    monkeypatch.setattr(contest, "transformers", lambda *options: [[0], [0]])
    with pytest.raises(SystemExit):
        compare(contest, "dynamic", "greedy", 1)
