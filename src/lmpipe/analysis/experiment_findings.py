"""Parts of findings about experiments: yardsticks, tables, targets, and experiments that are missing."""

import math
from collections.abc import Sequence

from lmpipe.analysis.finding import Finding, Metric, Table, Yardstick, missing, optional_metric
from lmpipe.analysis.outcomes import NATS, NO_RUN, SeedGroup, best_group, seed_groups
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.analysis.runs import Run
from lmpipe.io.formatting import join_words
from lmpipe.study.editions import FOLDER
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import RELATIVE

# An experiment for each problem; {corpus} is the study's simple corpus, {web} its web corpus.
EXAMPLES = FOLDER / "example_experiments.txt"
ORDER_NAMES = {1: "unigram", 2: "bigram", 3: "3-gram", 4: "4-gram", 5: "5-gram"}


def loss_yardsticks(results: Results, run: Run, orders: Sequence[int] = (1, 2, 3, 5)) -> list[Yardstick]:
    """Return the losses of n-gram tables on a run's training tokens, in nats per token; none without yardsticks."""
    budget = results.yardstick(run)
    losses = {ngram.order: ngram.loss for ngram in budget.ngrams} if budget else {}
    return [Yardstick(ORDER_NAMES[order], losses[order]) for order in orders if order in losses]


def byte_yardsticks(results: Results, run: Run) -> list[Yardstick]:
    """Return the losses of simple models and of xz on a run's corpus, in bits per byte of text."""
    yardsticks, budget = results.yardsticks(run.config.corpus), results.yardstick(run)
    if yardsticks is None or budget is None:
        return []
    per_byte = yardsticks.valid_tokens / yardsticks.valid_bytes / math.log(2)
    ngrams = {ngram.order: ngram.bits_per_byte for ngram in budget.ngrams}
    lines = [Yardstick("uniform", yardsticks.uniform_loss * per_byte)]
    lines += [Yardstick(ORDER_NAMES[order], ngrams[order]) for order in (1, 2, 3, 5) if order in ngrams]
    return [*lines, Yardstick("xz", yardsticks.xz_bits_per_byte)]


def groups_table(groups: Sequence[SeedGroup]) -> Table:
    """Return a row for each group of seeds."""
    columns = ["run", "peak rate", "failed", "seeds", "loss", "± (95 %)", "perplexity", "bits per byte", "steps"]
    rows = []
    for group in groups:
        half_width = (group.interval[1] - group.interval[0]) / 2 if group.interval else None
        loss = group.middle("validation_loss")
        rows.append(
            [
                group.label,
                group.max_lr,
                group.num_failed,
                group.num_seeds,
                loss,
                half_width if group.measure == "validation_loss" else None,
                None if loss is None else math.exp(loss),
                group.middle("bits_per_byte"),
                max(run.summary.steps for run in group.runs),
            ]
        )
    reason = "a seed failed, or there is one seed without an interval over documents"
    return Table("Final results of each run", columns, rows, reason)


def seeds_table(groups: Sequence[SeedGroup]) -> Table:
    """Return a row for each run, with its seed, its status and its final loss."""
    rows = [
        [group.label, run.seed, run.status, run.seed not in group.values, run.loss, run.summary.divergence_step]
        for group in groups
        for run in group.runs
    ]
    columns = ["run", "seed", "status", "failed", "loss", "last step before divergence"]
    reason = "the loss is not finite, or the run did not diverge"
    return Table("Final loss of every seed, in nats per token", columns, rows, reason)


def missing_experiment(results: Results, problem: str) -> Finding:
    """Return the finding of a problem whose experiment is not in the study, with an example on the study's corpora."""
    examples = EXAMPLES.read_text(encoding="utf-8").splitlines()
    example = next(line for line in examples if line.startswith(f"{problem}:"))
    corpus = results.corpus_in_role("simple") or next(iter(results.study.corpora))
    lines = example.replace("{corpus}", corpus).replace("{web}", results.corpus_in_role("web") or "A_WEB_CORPUS")
    return missing(f"This study has no experiment {problem}; add to its file, under experiments: `{lines}`")


def several_corpora(results: Results, experiment: ExperimentRuns) -> Finding:
    """Return the finding of an experiment whose runs predict different tokens, so that no loss is the lowest."""
    corpora = join_words([corpus_label(results.study, corpus) for corpus in experiment.by_corpus()])
    reason = f"The runs predict different tokens (of {corpora}); use one corpus and tokenizer."
    tables = [groups_table(seed_groups(results, experiment))]
    return Finding("missing", tables=tables, reason=reason)


def target_metrics(results: Results, name: str) -> dict[str, Metric]:
    """Return an experiment's target loss, the difference of its best run from it, and True if it is reached.

    Empty if there is no experiment of this name, or if it has no target.
    """
    experiment = results.experiment(name)
    if experiment is None or (target := results.study.experiments[name].target_loss) is None:
        return {}
    source, best = table_path(experiment), best_group(seed_groups(results, experiment))
    above = best and best.center - target
    bounds = best and best.interval and (best.interval[0] - target, best.interval[1] - target)
    return {
        "target_loss": Metric(target, NATS, f"the study's experiments.{name}.target_loss"),
        "loss_above_target": optional_metric(above, NATS, source, NO_RUN, bounds),
        "target_reached": optional_metric(best and above <= 0, "", source, NO_RUN),
    }


def table_path(experiment: ExperimentRuns) -> str:
    """Return the path of an experiment's table, below the study's folder."""
    return str(RELATIVE.experiment_table(experiment.name))
