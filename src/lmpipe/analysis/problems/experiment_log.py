"""Problem experiment_log: every training run of the study, the tokens of all, and the noise of seeds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lmpipe.analysis.effects import is_compared
from lmpipe.analysis.finding import Finding, Metric, Table, missing, optional_metric
from lmpipe.analysis.outcomes import NATS, learned_runs, study_noise
from lmpipe.analysis.problems.ablation import ABLATIONS, analyze_ablation
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run, group_by
from lmpipe.analysis.statistics import CONFIDENCE, holm
from lmpipe.study.labels import experiment_label, run_label
from lmpipe.study.paths import RUN_SUMMARIES

COLUMNS = ["experiments", "run", "seed", "status", "peak rate", "steps", "tokens", "loss", "bits per byte"]
COLUMNS += ["diverged after step", "time (s)", "tokens/s", "peak memory (MB)"]


def analyze(results: Results) -> Finding:
    """Return a table of every run, the totals, and the noise of seeds."""
    runs = results.runs()
    if not runs:
        return missing("This study has no training runs; add one under experiments: `first: {corpus: stories}`")
    equal = group_equal_runs(runs)
    metrics = totals(results, runs, [same[0] for same in equal])
    others = [experiment for experiment in results.experiments() if experiment.name not in ABLATIONS]
    return Finding(
        "answered",
        metrics | noise_metrics(results),
        facts={
            "is_single_elsewhere": all(len(other.runs) == len(other.names()) for other in others),
            "is_paired": is_paired(runs),
        },
        tables=[table(results, equal)],
    )


def group_equal_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Group the runs that are the same training, which several experiments may share."""
    return list(group_by(runs, lambda run: run.config.fingerprint(code={})).values())


def totals(results: Results, runs: Sequence[Run], trained: Sequence[Run]) -> dict[str, Metric]:
    """Return sums over the distinct runs."""
    learned = {id(run) for experiment in results.experiments() for run in learned_runs(results, experiment.runs)}
    return {
        "entries": Metric(len(runs), "runs", RUN_SUMMARIES),
        "distinct_runs": Metric(len(trained), "runs", RUN_SUMMARIES),
        "failed_runs": Metric(sum(id(run) not in learned for run in trained), "runs", RUN_SUMMARIES),
        "total_tokens": Metric(sum(run.summary.tokens for run in trained), "tokens", RUN_SUMMARIES),
    }


def is_paired(runs: Sequence[Run]) -> bool:
    """Return True if runs with one seed saw the same batches and began with equal weights, by their digests."""
    digests: dict[tuple[Any, ...], set[str]] = {}
    for run in runs:
        config, summary = run.config, run.summary
        batches = config.tokens.train.sha256, config.training.batch_size, config.model.context_length, summary.steps
        digests.setdefault((run.seed, *batches), set()).add(summary.batches_sha256)
        for name, weights in summary.init_digests.items():
            digests.setdefault((run.seed, name, weights.parameters), set()).add(weights.sha256)
    return all(len(equal) == 1 for equal in digests.values())


def noise_metrics(results: Results) -> dict[str, Metric]:
    """Return the pooled standard deviation over seeds, the smallest visible difference, and the corrected comparisons.

    The smallest visible difference is between two means over as many seeds as most ablations have.
    """
    noise = study_noise(results)
    reason = "no setting has two seeds"
    metrics = {"seed_sd": optional_metric(noise and noise.sd, NATS, RUN_SUMMARIES, reason)}
    if noise is None:
        return metrics
    ablations = [analyze_ablation(results, name) for name in ABLATIONS if results.experiment(name)]
    effects = [effect for finding in ablations for effect in finding.effects]
    counts = Counter(effect.num_seeds for effect in effects) or Counter({1: 1})
    num_seeds = counts.most_common(1)[0][0]
    visible = noise.difference_half_width(num_seeds)
    p_values = [effect.p_value for effect in effects if is_compared(effect)]
    return metrics | {
        "seed_sd_degrees": Metric(noise.degrees, "degrees of freedom", RUN_SUMMARIES),
        "smallest_visible_difference": Metric(visible, NATS, RUN_SUMMARIES),
        "seeds_of_ablations": Metric(num_seeds, "seeds", RUN_SUMMARIES),
        "comparisons": Metric(len(p_values), "differences with an interval", RUN_SUMMARIES),
        "resolved_alone": Metric(
            sum(p <= 1 - CONFIDENCE for p in p_values), "intervals that exclude zero", RUN_SUMMARIES
        ),
        "resolved_together": Metric(sum(holm(p_values)), "differences, after Holm's correction", RUN_SUMMARIES),
    }


def table(results: Results, equal: Sequence[Sequence[Run]]) -> Table:
    """Return a row for each distinct run."""
    rows = []
    for same in equal:
        run, study = same[0], results.study
        names = dict.fromkeys(experiment_label(study, other.config.experiment) for other in same)
        summary = run.summary
        rows.append(
            [
                ", ".join(names),
                run_label(study, run.config.experiment, run.name),
                run.seed,
                run.status,
                run.config.training.max_lr,
                summary.steps,
                summary.tokens,
                run.loss,
                summary.bits_per_byte,
                summary.divergence_step,
                summary.train_seconds,
                round(summary.tokens_per_second or 0),
                round(summary.peak_memory_bytes / 1e6),
            ]
        )
    return Table(
        "Every training run of the study, each once", COLUMNS, rows, "the loss is not finite, or did not diverge"
    )
