"""Names of what changed since a job last ran, for each kind of setting that a job depends on."""

from types import SimpleNamespace

import pytest

from lmpipe.planning.dry_run import changed_names
from lmpipe.planning.plan import load_plan
from lmpipe.planning.rule_inputs import RuleInputs
from tests.planning.test_plan import LAPTOP

STORIES = LAPTOP["corpora"]["stories"]
TOKENIZER = SimpleNamespace(tokenizer="stories")
CORPUS = SimpleNamespace(corpus="stories")


def params(**changes):
    """Return parameters of jobs of the laptop study with changes, by the name that they have in a rule."""
    inputs = RuleInputs(load_plan(LAPTOP | changes, "laptop"))
    run = SimpleNamespace(experiment="learning_rate", run="grid_max_lr=0.014", seed="0")
    return {
        "train_bpe": {"vocab_size": inputs.vocab_size(TOKENIZER), "tokens": inputs.special_token_options(TOKENIZER)},
        "count_pretokens": {"shards": inputs.num_shards(CORPUS)},
        "make_corpus": {"settings": inputs.settings("corpus", "corpus")(CORPUS)},
        "train": {"settings": inputs.run_settings(run)},
        "generate": {"settings": inputs.settings("sample", "corpus")(CORPUS)},
        "report": {"settings": inputs.settings("study")(None)},
    }


BEFORE = params()


def changes_of(before, now):
    """Return the names of what changed between two sets of parameters, as Snakemake records and compares them."""
    old, new = (set(map(repr, values.values())) for values in (before, now))
    return list(changed_names(now, old - new, new - old))


@pytest.mark.parametrize(
    ("rule", "changes", "names"),
    [
        ("train_bpe", {"corpora": {"stories": {"tokenizer": {"vocab_size": 512}}}}, ["vocab_size"]),
        ("train_bpe", {"corpora": {"stories": {"tokenizer": {"special_tokens": ["<|user|>"]}}}}, ["tokens"]),
        ("count_pretokens", {"corpora": {"stories": {"shards": 2}}}, ["shards"]),
        ("make_corpus", {"corpora": {"stories": {"documents": 50_000}}}, ["documents"]),
        ("train", {"model": {"d_ff": 64}}, ["model.d_ff"]),
        ("train", {"training": {"weight_decay": 0.25}}, ["training.weight_decay"]),
        ("generate", {"samples": {"prompts": ["A cat"]}}, ["prompts"]),
        ("report", {"handout": "cs336-2025"}, ["handout"]),
        ("report", {"label": "A study"}, ["label"]),
        ("report", {"samples": {"prompts": ["A cat"]}}, ["samples.prompts"]),
    ],
)
def test_every_changed_setting_has_a_name(rule, changes, names):
    assert changes_of(BEFORE[rule], params(**merged(LAPTOP, changes))[rule]) == names
    assert changes_of(BEFORE[rule], BEFORE[rule]) == []


def merged(block, changes):
    """Return a block of settings with changes at any depth."""
    inner = {key: merged(block[key], value) for key, value in changes.items() if isinstance(value, dict)}
    return block | changes | inner


def test_code_and_settings_are_compared_apart():
    before = {"settings": '{"a": {"b": 1}, "overrides": 1}', "code": {"data.corpus": "1", "numpy": "2"}, "gpus": 1}
    now = {"settings": '{"a": {"b": 2}, "overrides": 2}', "code": {"data.corpus": "1", "numpy": "3"}, "gpus": 2}
    assert changes_of(before, now) == ["a.b", "numpy", "gpus"]
    assert changes_of({"gpus": 1}, now) == ["settings", "code", "gpus"]
