from pathlib import Path

import pytest

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.training.run import load_run
from lmpipe.training.run_documents import BestRun
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_text, tiny_tokenizer


@pytest.fixture
def study(tmp_path):
    return make_tiny_study(tmp_path)


def fingerprint(study, run=None):
    return load_run(run or tiny_run(), study, study / "run").fingerprint()


def test_names_do_not_make_another_run(study):
    named = tiny_run("other", study="other", experiment="other", overrides={"max_lr": 0.01})
    assert fingerprint(study, named) == fingerprint(study)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"max_lr": 0.02}, {"eval_tokens": 100}, {"model": {"norm": "post"}}])
def test_every_setting_makes_another_run(study, changed):
    assert fingerprint(study, tiny_run(**changed)) != fingerprint(study)


def test_other_code_makes_another_run(study, monkeypatch):
    before = fingerprint(study)
    monkeypatch.setattr("lmpipe.training.run.code_digest", lambda *names: {"model": "edited"})
    assert fingerprint(study) != before


@pytest.mark.parametrize("split", ["train", "valid"])
def test_another_text_makes_another_run(study, split):
    before = fingerprint(study)
    text, target = study / "another.txt", study / f"tokens/tiny/{split}.bin"
    Path(text).write_text(tiny_text(50, seed=7), encoding="utf-8")
    encode_file(text, tiny_tokenizer(), target, target.with_suffix(".json"), "tiny")
    assert fingerprint(study) != before


def test_best_run_of_another_sweep_is_refused(study):
    losses = {"validation_loss": 3.0, "bits_per_byte": 2.0, "ranked_by": "validation_loss"}
    best = BestRun(experiment="other", run="a", seeds=[0], max_lr=0.01, interpolated_lr=None, batch_size=4, **losses)
    best.write(study / "experiments/sweep/best.json")
    run = tiny_run(max_lr={"best_of": "sweep"})
    with pytest.raises(InputError) as refused:
        load_run(run, study, study / "run")
    assert refused.value.where == str(study / "experiments/sweep/best.json") and "sweep" in refused.value.problem
