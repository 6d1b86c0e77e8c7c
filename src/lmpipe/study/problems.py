"""Table of the problems of the handout, one row each, in the order of the handout."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Chapter = Literal["training", "ablations", "costs", "tokenizers", "warm_up", "appendix"]


@dataclass(frozen=True)
class Problem:
    """One problem: a card of the report with a prose template, and an analysis in analysis/problems/registry.py."""

    id: str
    """Key of the finding."""
    chapter: Chapter
    """Chapter of the report."""
    is_experiment: bool = False
    """True if the problem is answered by the study's experiment of this name."""
    aliases: tuple[str, ...] = ()
    """Names in other editions of the handout; anchors in the report."""


_ROWS = (
    Problem("unicode1", "tokenizers"),
    Problem("unicode2", "tokenizers"),
    Problem("train_bpe_tinystories", "tokenizers"),
    Problem("train_bpe_expts_owt", "tokenizers"),
    Problem("tokenizer_experiments", "tokenizers"),
    Problem("transformer_accounting", "costs"),
    Problem("adamw_accounting", "costs", aliases=("adamwAccounting",)),
    Problem("learning_rate_tuning", "warm_up"),
    Problem("learning_rate", "training", is_experiment=True),
    Problem("batch_size_experiment", "training", is_experiment=True),
    Problem("generate", "training"),
    Problem("layer_norm_ablation", "ablations", is_experiment=True),
    Problem("pre_norm_ablation", "ablations", is_experiment=True),
    Problem("no_pos_emb", "ablations", is_experiment=True),
    Problem("swiglu_ablation", "ablations", is_experiment=True),
    Problem("main_experiment", "training", is_experiment=True),
    Problem("experiment_log", "appendix"),
)
PROBLEMS = {problem.id: problem for problem in _ROWS}
ABLATIONS = tuple(problem.id for problem in _ROWS if problem.chapter == "ablations")
# Sections of the report without an experiment, whose names no experiment may have.
RESERVED_SECTIONS = frozenset(
    name for problem in _ROWS if not problem.is_experiment for name in (problem.id, *problem.aliases)
)


def listed_problems(handout: str, experiments: Collection[str]) -> dict[str, Problem]:
    """Return the problems that a report answers, by id: all, or without a handout those that have an experiment."""
    return {name: problem for name, problem in PROBLEMS.items() if handout != "none" or name in experiments}
