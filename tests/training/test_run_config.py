from pathlib import Path

import pytest

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.training import run_config
from lmpipe.training.run_config import BestRun, GridPoint, load_run
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_text, tiny_tokenizer


@pytest.fixture
def study(tmp_path):
    return make_tiny_study(tmp_path)


def fingerprint(study, run=None):
    return load_run(run or tiny_run(), study, None, study / "run").fingerprint()


def test_names_do_not_make_another_run(study):
    named = tiny_run("other", study="other", experiment="other", overrides={"max_lr": 0.01})
    assert fingerprint(study, named) == fingerprint(study)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"max_lr": 0.02}, {"eval_tokens": 100}, {"model": {"norm": "post"}}])
def test_every_setting_makes_another_run(study, changed):
    assert fingerprint(study, tiny_run(**changed)) != fingerprint(study)


def test_other_code_makes_another_run(study, monkeypatch):
    before = fingerprint(study)
    monkeypatch.setattr(run_config, "code_digest", lambda *names: {"model": "edited"})
    assert fingerprint(study) != before


@pytest.mark.parametrize("split", ["train", "valid"])
def test_another_text_makes_another_run(study, split):
    before = fingerprint(study)
    text, target = study / "another.txt", study / f"tokens/tiny/{split}.bin"
    Path(text).write_text(tiny_text(50, seed=7), encoding="utf-8")
    encode_file(text, tiny_tokenizer(), target, target.with_suffix(".json"), "tiny")
    assert fingerprint(study) != before


def test_best_run_of_another_sweep_is_refused(study):
    point = {"run": "a", "max_lr": 0.01, "batch_size": 4, "validation_loss": 3.0, "bits_per_byte": 2.0}
    point |= {"statuses": ["finished"]}
    candidates = [GridPoint(**point)]
    best = BestRun(**point, experiment="other", seeds=[0], ranked_by="validation_loss", candidates=candidates)
    best.write(study / "best.json")
    run = tiny_run(max_lr={"best_of": "sweep"})
    with pytest.raises(InputError) as refused:
        load_run(run, study, study / "best.json", study / "run")
    assert refused.value.where == str(study / "best.json") and "sweep" in refused.value.problem
