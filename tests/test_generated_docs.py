"""Generated documentation is current, and the shipped studies are valid by their JSON Schema."""

import copy
from functools import cache

import jsonschema
import pytest
import yaml

from tests.support.generated_docs import ROOT, generated, study_schema

STUDIES = sorted((ROOT / "config").glob("*.yaml"))


@cache
def validator():
    jsonschema.Draft202012Validator.check_schema(study_schema())
    return jsonschema.Draft202012Validator(study_schema())


def test_generated_documentation_is_current():
    for path, text in generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python -m tests.support.generated_docs"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_shipped_study_is_valid_by_the_schema(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=study.schema.json\n")
    validator().validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("training", "warmpu"), 1),
        (("model", "norm"), "layer"),
        (("seeds",), []),
        (("corpora", "stories", "source"), "wiki"),
        (("experiments", "learning_rate", "sweep"), {"max_lrr": [1]}),
    ],
)
def test_schema_refuses_a_wrong_study(keys, value):
    study = copy.deepcopy(yaml.safe_load(STUDIES[0].read_text(encoding="utf-8")))
    block = study
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(study)
