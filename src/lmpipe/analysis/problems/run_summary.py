"""Metrics and findings that the problems about training runs share."""

from lmpipe.analysis.finding import Finding, missing
from lmpipe.analysis.outcomes import groups_table, seed_groups
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import join_words
from lmpipe.study.labels import corpus_label

# The noise of seeds is that of all runs: a metric of the experiment log.
NOISE_SOURCE = "findings.json"


def missing_experiment(results: Results, problem: str, example: str) -> Finding:
    """Return the finding of a problem whose experiment is not in the study.

    `{corpus}` in `example` becomes the study's simple corpus, `{web}` its web corpus.
    """
    corpus = results.corpus_in_role("simple") or next(iter(results.study.corpora))
    lines = example.replace("{corpus}", corpus).replace("{web}", results.corpus_in_role("web") or "A_WEB_CORPUS")
    return missing(f"This study has no experiment {problem}; add to its file, under experiments: `{lines}`")


def several_corpora(results: Results, experiment: ExperimentRuns) -> Finding:
    """Return the finding of an experiment whose runs predict different tokens, so that no loss is the lowest."""
    corpora = join_words([corpus_label(results.study, corpus) for corpus in experiment.by_corpus()])
    reason = f"The runs predict different tokens (of {corpora}); use one corpus and tokenizer."
    tables = [groups_table("Final results of each run", seed_groups(results, experiment))]
    return Finding("missing", tables=tables, reason=reason)


def table_path(experiment: ExperimentRuns) -> str:
    """Return the path of an experiment's table, below the study's folder."""
    return f"experiments/{experiment.name}/table.csv"
