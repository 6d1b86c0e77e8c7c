"""Display names: the study's own labels, or names made from the settings."""

import copy
from pathlib import Path

import pytest
import yaml

from lmpipe.study.labels import colour_key, corpus_label, experiment_label, run_label, study_label
from lmpipe.study.schema import read_study

SMOKE = yaml.safe_load((Path(__file__).parents[2] / "config" / "smoke.yaml").read_text(encoding="utf-8"))
SQRT = {"best_of": "rates", "scale": "sqrt_batch_size", "factor": [0.5, 1, 3]}
EXPERIMENTS = {
    "rates": {"corpus": "stories", "sweep": {"max_lr": [0.014, 0.028]}},
    "batch_size_experiment": {"corpus": "stories", "sweep": {"batch_size": [16], "max_lr": SQRT}},
    "ablation": {
        "corpus": "stories",
        "max_lr": {"best_of": "rates"},
        "runs": {
            "baseline": {},
            "post": {"norm": "post", "max_lr": {"best_of": "rates", "interpolate": True}},
            "none": {"norm": "none"},
            "nope": {"position_embedding": "none"},
            "silu": {"feed_forward": "silu", "d_ff": 144},
            "wide": {"d_ff": 2048},
            "twice": {"max_lr": {"best_of": "rates", "factor": 2}},
            "edge": {"label": "edge of stability", "min_lr_ratio": 1, "sweep": {"max_lr": [0.2]}},
            "betas": {"betas": [0.9, 0.99]},
        },
    },
    "no_norm_rates": {"label": "rate without RMSNorm", "corpus": "stories", "norm": "none"},
    "two_corpora": {"runs": {"a": {"corpus": "stories"}, "b": {"corpus": "docs"}}},
}


@pytest.fixture(scope="module")
def study():
    corpora = copy.deepcopy(SMOKE["corpora"])
    corpora["docs"]["label"] = "Python documentation"
    changes = {"experiments": EXPERIMENTS, "corpora": corpora, "label": "a small study"}
    return read_study(SMOKE | changes, "test")


@pytest.mark.parametrize(
    ("run", "label"),
    [
        ("rates/max_lr=0.014", "rate 0.014"),
        ("batch_size_experiment/batch_size=16_max_lr=sqrt_batch_size-0.5", "batch 16, half the square-root rate"),
        ("batch_size_experiment/batch_size=16_max_lr=sqrt_batch_size-1.0", "batch 16, the square-root rate"),
        ("batch_size_experiment/batch_size=16_max_lr=sqrt_batch_size-3.0", "batch 16, 3 times the square-root rate"),
        ("ablation/baseline", "baseline"),
        ("ablation/post", "post-norm"),
        ("ablation/none", "without RMSNorm"),
        ("ablation/nope", "NoPE"),
        ("ablation/silu", "SiLU"),
        ("ablation/wide", "feed-forward width 2,048"),
        ("ablation/twice", "twice the best rate"),
        ("ablation/edge_max_lr=0.2", "edge of stability, rate 0.2"),
        ("ablation/betas", "betas 0.9 and 0.99"),
        ("no_norm_rates/baseline", "baseline"),
        ("two_corpora/b", "Python documentation"),
    ],
)
def test_run_is_named_by_its_settings_or_its_label(study, run, label):
    assert run_label(study, *run.split("/")) == label


def test_labels_of_the_study_and_its_parts(study):
    assert study_label(study) == "a small study"
    assert [corpus_label(study, name) for name in study.corpora] == ["stories", "Python documentation"]
    assert experiment_label(study, "no_norm_rates") == "rate without RMSNorm"
    assert experiment_label(study, "batch_size_experiment") == "batch size"


@pytest.mark.parametrize(
    ("run", "key"),
    [
        ("rates/max_lr=0.014", "baseline"),
        ("ablation/baseline", "baseline"),
        ("ablation/post", "post_norm"),
        ("ablation/none", "no_norm"),
        ("no_norm_rates/baseline", "no_norm"),
        ("ablation/nope", "no_pos_emb"),
        ("ablation/silu", "silu"),
        ("ablation/wide", "wide"),
        ("ablation/edge_max_lr=0.2", "baseline"),
        ("two_corpora/a", "stories"),
    ],
)
def test_colour_belongs_to_the_variant_of_the_model(study, run, key):
    assert colour_key(study, *run.split("/")) == key


def test_run_that_the_study_does_not_have_is_refused(study):
    with pytest.raises(KeyError, match="max_lr=1"):
        run_label(study, "rates", "max_lr=1")


def test_every_run_of_the_shipped_study_has_a_name_of_its_own():
    study = read_study(SMOKE, "test")
    for name, experiment in study.experiments.items():
        labels = [run_label(study, name, variant.name) for variant in experiment.variants()]
        assert len(set(labels)) == len(labels) and not any("_" in label for label in labels)
