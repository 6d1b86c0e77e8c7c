"""Differences of variants from their baseline, their correction, and expectations with their outcomes."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median

from lmpipe.analysis.finding import Effect, Expectation, Finding
from lmpipe.analysis.outcomes import NATS, SeedGroup, study_noise
from lmpipe.analysis.rate_sweeps import own_sweep
from lmpipe.analysis.results import Results
from lmpipe.analysis.statistics import SeedNoise, holm, mean_interval, two_sided_p
from lmpipe.study.experiments import Expect
from lmpipe.study.problems import ABLATIONS


def effect_of(results: Results, group: SeedGroup, baseline: SeedGroup, noise: SeedNoise | None) -> Effect:
    """Return the difference of a group from its baseline, with the edge of the group's own sweep.

    Seeds that both have are paired, other seeds are compared with the baseline's center. The interval has the study's
    seed noise; in bits per byte, or without one, that of the paired differences.
    """
    center = baseline.center
    differences = [] if center is None else [
        value - baseline.values.get(seed, center) for seed, value in group.values.items()
    ]  # fmt: skip
    failed = group.num_failed or baseline.num_failed
    difference = (median if failed else fmean)(differences) if differences else None
    interval = p_value = None
    if differences and not failed and min(group.num_seeds, baseline.num_seeds) > 1:
        interval, degrees = mean_interval(differences), len(differences) - 1
        if noise and group.measure == "validation_loss":
            half_width, degrees = noise.difference_half_width(group.num_seeds, baseline.num_seeds), noise.degrees
            interval = difference - half_width, difference + half_width
        p_value = two_sided_p(difference, (interval[1] - interval[0]) / 2, degrees) if interval else None
    sweep = own_sweep(results, group)
    return Effect(
        label=group.label,
        variant=group.variant,
        difference=difference,
        interval=interval,
        p_value=p_value,
        differences=differences,
        num_failed=group.num_failed,
        num_seeds=group.num_seeds,
        unit=group.unit,
        max_lr=group.max_lr,
        stable_up_to=sweep.stable_up_to if sweep else None,
        breaks_at=sweep.breaks_at if sweep else None,
    )


def classify_effect(effect: Effect, noise: SeedNoise | None) -> str | None:
    """Return the outcome of an effect: higher, lower, same (below the smallest visible difference) or diverges.

    It is not resolved if seeds failed in a part of the runs, or if the noise of one seed is unknown.

    >>> effect = Effect("post-norm", "post_norm", 0.2, None, [0.2], 0, 1, "nats per token", 0.01)
    >>> classify_effect(effect, SeedNoise(0.01, 10)), classify_effect(effect, None)
    ('higher', 'not resolved')
    """
    if effect.num_failed == effect.num_seeds:
        return "diverges"
    if effect.difference is None:
        return None
    if effect.interval:
        half_width = (effect.interval[1] - effect.interval[0]) / 2
    elif noise and effect.unit == NATS and not effect.num_failed:
        half_width = noise.difference_half_width(effect.num_seeds)
    else:
        return "not resolved"
    if abs(effect.difference) <= half_width:
        return "same"
    return "higher" if effect.difference > 0 else "lower"


def correct_comparisons(problems: Mapping[str, Finding]) -> dict[str, Finding]:
    """Return the findings with `is_significant` set on the effects of the ablations, which are corrected together.

    A difference that the correction leaves without significance is not resolved.
    """
    compared = [row for name in ABLATIONS if name in problems for row in problems[name].effects if is_compared(row)]
    significant = dict(zip(map(id, compared), holm([row.p_value for row in compared]), strict=True))
    return {name: correct_finding(finding, significant) for name, finding in problems.items()}


def correct_finding(finding: Finding, significant: Mapping[int, bool]) -> Finding:
    """Return a finding with `is_significant` of its effects, by their ids, and the outcomes that follow from it."""
    effects = [replace(row, is_significant=significant.get(id(row))) for row in finding.effects]
    unresolved = {row.label for row in effects if row.is_significant is False}

    def corrected(outcome: str | None, label: str) -> str | None:
        return "not resolved" if label in unresolved and outcome in ("higher", "lower") else outcome

    expectations = [replace(row, outcome=corrected(row.outcome, row.label)) for row in finding.expectations]
    facts = dict(finding.facts)
    if "outcome" in facts:
        facts["outcome"] = corrected(facts["outcome"], effects[0].label)
    return replace(finding, effects=effects, expectations=expectations, facts=facts)


def is_compared(effect: Effect) -> bool:
    """Return True if an effect is one of the study's comparisons: a difference in nats with a p-value."""
    return effect.p_value is not None and effect.unit == NATS


def expectations(results: Results, experiment: str, effects: Mapping[str, Effect]) -> list[Expectation]:
    """Return the expectations that a study states for an experiment and its runs, with their outcomes.

    `effects` are by name of the run, in the order of the study. An expectation of a sweep, or of the whole experiment,
    is about its last run.
    """
    settings, noise = results.study.experiments[experiment], study_noise(results)
    last: dict[str, tuple[Effect, Expect | None]] = {}
    for name, effect in effects.items():
        variant = results.study.experiments[experiment].variants_by_name[name]
        last[variant.run] = effect, variant.settings.expect
    pairs = list(last.values())
    if pairs and settings.expect and (pairs[-1][0], settings.expect) not in pairs:
        pairs.append((pairs[-1][0], settings.expect))
    return [
        Expectation(effect.label, expect.outcome, classify_effect(effect, noise), expect.because, expect.source or "")
        for effect, expect in pairs
        if expect
    ]
