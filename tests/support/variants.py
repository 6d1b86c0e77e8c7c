"""Every combination of the words of the study's model, from the schema, so that a new word is tested at once."""

from itertools import product
from typing import Any, get_args

from lmpipe.study.settings import ModelConfig, ModelSettings

WORDS = {
    key: get_args(ModelSettings.model_fields[key].annotation) for key in ("norm", "position_embedding", "feed_forward")
}
MODEL_VARIANTS = [dict(zip(WORDS, words, strict=True)) for words in product(*WORDS.values())]


def model_variant(shape: dict[str, Any], words: dict[str, str]) -> ModelConfig:
    """Return a model of a shape in one of the variants."""
    return ModelConfig(**shape, **words)


def variant_ids(words: dict[str, str]) -> str:
    """Return the id of a parametrized test."""
    return "-".join(words.values())
