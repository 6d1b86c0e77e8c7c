import math

import pytest

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.study.settings import TrainingSettings
from lmpipe.training.run import load_run
from lmpipe.training.run_documents import BestRun
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_text, tiny_tokenizer

BEST = BestRun(
    experiment="sweep",
    run="max_lr=0.02",
    seeds=[0],
    max_lr=0.02,
    interpolated_lr=0.03,
    batch_size=16,
    ranked_by="validation_loss",
    validation_loss=3.0,
    bits_per_byte=2.0,
)


@pytest.fixture
def study(tmp_path):
    return make_tiny_study(tmp_path)


def fingerprint(study, run=None):
    return load_run(run or tiny_run(), study, study / "run").fingerprint()


def test_names_do_not_make_another_run(study):
    named = tiny_run("other", study="other", experiment="other", overrides={"max_lr": 0.01})
    assert fingerprint(study, named) == fingerprint(study)


class NewerSettings(TrainingSettings):
    """Training settings of a later version, which has one more."""

    label_smoothing: float = 0.0


def test_a_new_setting_makes_another_run_only_if_it_is_used(study):
    config = load_run(tiny_run(), study, study / "run").config
    default, used = (NewerSettings(**config.training.model_dump(), **new) for new in ({}, {"label_smoothing": 0.1}))
    digests = [config.model_copy(update={"training": value}).fingerprint({}) for value in (default, used)]
    assert digests[0] == config.fingerprint({}) != digests[1]


def test_every_setting_code_and_text_makes_another_run(study, monkeypatch):
    changes = ({}, {"seed": 1}, {"max_lr": 0.02}, {"eval_tokens": 100}, {"model": {"norm": "post"}})
    fingerprints = [fingerprint(study, tiny_run(**changed)) for changed in changes]
    for split in ("train", "valid"):
        text, target = study / "another.txt", study / f"tokens/tiny/{split}.bin"
        text.write_text(tiny_text(50, seed=7), encoding="utf-8")
        encode_file(text, tiny_tokenizer(), target, target.with_suffix(".json"), "tiny")
        fingerprints.append(fingerprint(study))
    monkeypatch.setattr("lmpipe.training.run.code_digest", lambda *names: {"model": "edited"})
    fingerprints.append(fingerprint(study))
    assert len(set(fingerprints)) == len(fingerprints)


@pytest.mark.parametrize(
    ("max_lr", "interpolated_lr", "expected"),
    [
        ({}, 0.03, 0.02),
        ({"interpolate": True}, 0.03, 0.03),
        ({"interpolate": True}, None, 0.02),
        ({"factor": 0.5}, 0.03, 0.01),
        ({"scale": "sqrt_batch_size", "factor": 2}, 0.03, 0.02 * 2 * math.sqrt(4 / 16)),
    ],
)
def test_learning_rate_is_taken_from_the_best_run_of_a_sweep(study, max_lr, interpolated_lr, expected):
    BEST.model_copy(update={"interpolated_lr": interpolated_lr}).write(study / "experiments/sweep/best.json")
    max_lr = {"best_of": "sweep", **max_lr}
    run = tiny_run(max_lr=max_lr, overrides={"max_lr": max_lr, "batch_size": 4})
    config = load_run(run, study, study / "run").config
    assert config.training.max_lr == config.overrides["max_lr"] == pytest.approx(expected)
    assert config.overrides["batch_size"] == 4
    source = {"best_of": "sweep", "scale": max_lr.get("scale"), "factor": max_lr.get("factor", 1)}
    source |= {"best_run": "max_lr=0.02", "best_max_lr": 0.02, "best_batch_size": 16}
    used_lr = interpolated_lr if "interpolate" in max_lr else None
    assert config.lr_source.model_dump() == source | {"interpolated_lr": used_lr}


def test_best_run_of_another_sweep_is_refused(study):
    BEST.model_copy(update={"experiment": "other"}).write(study / "experiments/sweep/best.json")
    with pytest.raises(InputError, match="best run of other, not of sweep") as refused:
        load_run(tiny_run(max_lr={"best_of": "sweep"}), study, study / "run")
    assert refused.value.where == str(study / "experiments/sweep/best.json")
