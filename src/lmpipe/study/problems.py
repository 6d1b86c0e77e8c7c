"""Table of the problems of the write-up, one row each, in the order of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem: a section of the report, and a module and template of its name."""

    id: str
    """Name of the section."""
    module: str = ""
    """Module below lmpipe.analysis.problems, if it is not the id."""
    is_experiment: bool = False
    """True if the problem is answered by the study's experiment of this name."""
    is_ablation: bool = False
    """True for experiments that remove one part of the model."""
    is_headline: bool = False
    """True if the short answer is on the first page."""


ABLATION = {"is_experiment": True, "is_ablation": True, "is_headline": True}
_ROWS = (
    Problem("unicode1"),
    Problem("unicode2"),
    Problem("train_bpe_tinystories"),
    Problem("train_bpe_expts_owt"),
    Problem("tokenizer_experiments"),
    Problem("transformer_accounting"),
    Problem("adamwAccounting", module="adamw_accounting"),
    Problem("learning_rate_tuning"),
    Problem("learning_rate", is_experiment=True, is_headline=True),
    Problem("batch_size_experiment", is_experiment=True, is_headline=True),
    Problem("generate"),
    Problem("layer_norm_ablation", **ABLATION),
    Problem("pre_norm_ablation", **ABLATION),
    Problem("no_pos_emb", **ABLATION),
    Problem("swiglu_ablation", **ABLATION),
    Problem("main_experiment", is_experiment=True, is_headline=True),
    Problem("experiment_log"),
)
PROBLEMS = {problem.id: problem for problem in _ROWS}
ABLATIONS = tuple(problem.id for problem in _ROWS if problem.is_ablation)
HEADLINES = tuple(problem.id for problem in _ROWS if problem.is_headline)
# Sections of the report without an experiment, whose names no experiment may have.
RESERVED_SECTIONS = frozenset(problem.id for problem in _ROWS if not problem.is_experiment)
