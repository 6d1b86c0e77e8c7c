"""Editions of the handout: their names, shapes and questions."""

import pytest
from pydantic import ValidationError

from lmpipe.planning.plan import load_plan
from lmpipe.study.editions import EDITIONS, FOLDER, adamw_question, edition_models, edition_of, read_edition
from lmpipe.study.problems import PROBLEMS, RESERVED_SECTIONS, listed_problems
from tests.support.fake_results import CORPORA, MODEL, TRAINING, fake_study

SIZES = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}


def test_each_edition_has_a_file():
    assert sorted(EDITIONS) == sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", EDITIONS)
def test_edition_names_every_problem(name):
    names = read_edition(name).problems
    assert list(names) == list(PROBLEMS)
    for problem, own_name in names.items():
        assert own_name in (problem, *PROBLEMS[problem].aliases)


def test_shapes_follow_the_rule_of_their_edition():
    for size, (d_model, layers, heads) in SIZES.items():
        for year, d_ff in (("2025", 4 * d_model), ("2026", 64 * round(8 * d_model / 3 / 64))):
            model = read_edition(f"cs336-{year}").models[f"gpt2_{size}_{year}"]
            assert (model.d_model, model.num_layers, model.num_heads, model.d_ff) == (d_model, layers, heads, d_ff)


def test_edition_with_a_wrong_name_is_refused():
    edition = read_edition("cs336-2026").model_dump()
    for change in ({"renamed": {"unicode9": "a"}}, {"adamw": edition["adamw"] | {"model": "gpt5"}}):
        with pytest.raises(ValidationError, match="does not have"):
            type(read_edition("cs336-2026")).model_validate(edition | change)


def test_shapes_of_every_edition_are_accounted_for_and_answer_their_own_question():
    plan = load_plan(fake_study(handout="cs336-2025"), "test")
    assert next(iter(plan.models)) == "gpt2_small_2025" and len(plan.models) == 11
    devices = {name: plan.adamw_question(name).device for name in ("gpt2_xl_2025", "gpt2_xl_2026", "study")}
    assert devices == {"gpt2_xl_2025": "A100", "gpt2_xl_2026": "H100", "study": "A100"}


def test_memory_of_the_study_is_for_its_own_models():
    own = fake_study(accounting={"models": {}, "device_memory_gb": 24.0})
    plan = load_plan(own, "test")
    assert plan.adamw_question("study").device_memory_gb == 24
    assert plan.adamw_question("gpt2_xl_2026").device_memory_gb == 80


def test_study_without_a_handout_needs_no_more_than_an_experiment():
    corpora = {"stories": {key: value for key, value in CORPORA["stories"].items() if key != "stands_for"}}
    study = {"study": "own", "handout": "none", "seeds": [0], "corpora": corpora, "model": MODEL, "training": TRAINING}
    plan = load_plan(study | {"experiments": {"depth": {"corpus": "stories"}}}, "test")
    assert list(plan.models) == ["study"]
    assert edition_of("none") is None and edition_models("none") == {}
    assert adamw_question("none", "study").device == "H100"
    assert listed_problems("none", plan.runs_by_experiment) == {}
    assert list(listed_problems("none", ["depth", "learning_rate"])) == ["learning_rate"]


def test_older_names_of_sections_are_reserved():
    assert {"adamwAccounting", "adamw_accounting", "unicode1"} <= RESERVED_SECTIONS
