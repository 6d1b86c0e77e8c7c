"""Display names of a study: its labels, or else names made from the settings of a run.

Every function takes the study and names in it, so that tables, plots and prose of a report agree.
"""

from collections.abc import Mapping
from typing import Any

from lmpipe.io.formatting import format_count, format_number, is_number
from lmpipe.study.experiments import BestOf
from lmpipe.study.schema import Study
from lmpipe.study.settings import ModelSettings

BASELINE = "baseline"
# Values with a name in the literature: the name, and the colour key of a model that differs from the study's in them.
WORDS = {
    ("norm", "pre"): ("pre-norm", "pre_norm"),
    ("norm", "post"): ("post-norm", "post_norm"),
    ("norm", "none"): ("without RMSNorm", "no_norm"),
    ("position_embedding", "rope"): ("RoPE", "rope"),
    ("position_embedding", "none"): ("NoPE", "no_pos_emb"),
    ("feed_forward", "swiglu"): ("SwiGLU", "swiglu"),
    ("feed_forward", "silu"): ("SiLU", "silu"),
}
PHRASES = {
    "batch_size": "batch {}",
    "max_lr": "rate {}",
    "total_tokens": "{} tokens",
    "vocab_size": "vocabulary {}",
    "context_length": "context {}",
    "d_model": "width {}",
    "d_ff": "feed-forward width {}",
    "num_layers": "{} layers",
    "num_heads": "{} heads",
    "precision": "{}",
}
# Settings that say how a run is measured, or that follow from another one.
UNNAMED = {"num_evaluations", "eval_tokens", "min_warmup_steps", "min_lr_ratio"}
FRACTIONS = {0.25: "a quarter of ", 0.5: "half ", 1.0: "", 2.0: "twice "}


def study_label(study: Study) -> str:
    """Return the name of a study."""
    return study.label or study.study


def corpus_label(study: Study, corpus: str) -> str:
    """Return the name of a corpus."""
    return study.corpora[corpus].label or corpus.replace("_", " ")


def experiment_label(study: Study, experiment: str) -> str:
    """Return the name of an experiment."""
    return study.experiments[experiment].label or experiment.replace("_", " ").removesuffix(" experiment")


def run_label(study: Study, experiment: str, run: str) -> str:
    """Return the name of a run in its experiment, such as "post-norm" or "batch 16, half the square-root rate".

    Runs that differ from the study in swept settings alone are named by these.
    """
    variant = study.experiments[experiment].variants_by_name[run]
    settings, point = variant.settings, setting_words(study, variant.point)
    if settings.label:
        return ", ".join([settings.label, *point])
    if words := setting_words(study, settings.overrides()):
        return ", ".join([*words, *point])
    name = [variant.run.replace("_", " ") or BASELINE] if settings.overrides() or not point else []
    return ", ".join([*name, *point])


def setting_words(study: Study, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that a name mentions, each in a few words.

    d_ff is left out beside another feed-forward, whose number of weights it keeps.
    """
    unnamed = UNNAMED | ({"d_ff"} if "feed_forward" in settings else set())
    phrases = [setting_phrase(study, key, value) for key, value in settings.items() if key not in unnamed]
    return list(filter(None, phrases))


def setting_phrase(study: Study, key: str, value: Any) -> str:
    """Return a setting in a few words; empty for the best rate of another experiment, which is the usual one."""
    if isinstance(value, str) and (key, value) in WORDS:
        return WORDS[key, value][0]
    if isinstance(value, BestOf):
        return rate_phrase(value)
    if key == "corpus":
        return corpus_label(study, value)
    words = value if isinstance(value, str) else format_value(value)
    return PHRASES.get(key, f"{key.replace('_', ' ')} {{}}").format(words)


def format_value(value: Any) -> str:
    """Return a number as prose prints it, or several of them."""
    if isinstance(value, list | tuple):
        return " and ".join(map(format_value, value))
    return format_count(value) if isinstance(value, int) else format_number(value) if is_number(value) else str(value)


def rate_phrase(rate: BestOf) -> str:
    """Return a rate that is taken from another experiment.

    >>> rate_phrase(BestOf(best_of="learning_rate", scale="sqrt_batch_size", factor=0.5))
    'half the square-root rate'
    """
    if rate.scale is None and rate.factor in (None, 1.0):
        return ""
    factor = rate.factor or 1.0
    words = FRACTIONS.get(factor, f"{format_number(factor)} times ")
    return f"{words}the {'square-root' if rate.scale else 'best'} rate"


def colour_key(study: Study, experiment: str, run: str) -> str:
    """Return the key of a run's colour, the same for one variant of the model in all experiments.

    It is made from the settings in which the model differs from that of the study; runs on several corpora have their
    corpus as the key.
    """
    settings = study.experiments[experiment]
    variant = settings.variants_by_name[run]
    changes = settings.overrides() | variant.settings.overrides() | variant.point
    if len({run.overrides().get("corpus") for run in (settings.runs or {}).values()}) > 1:
        return changes["corpus"]
    model = {key: value for key, value in changes.items() if key in ModelSettings.model_fields}
    different = [key for key, value in model.items() if value != getattr(study.model, key)]
    named = [WORDS[key, model[key]][1] for key in different if (key, model[key]) in WORDS]
    return "_".join(named) or (variant.run if different else BASELINE) or run
