"""Problem swiglu_ablation: the gated feed-forward against a plain one of equal size."""

from lmpipe.analysis.finding import Finding, Metric
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.ablation import AblationSpec, Comparison, analyze_ablation
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import format_int, format_percent

ID = "swiglu_ablation"
TITLE = "SwiGLU against SiLU"
QUESTION = (
    "What does the gate of SwiGLU bring over a feed-forward block with a plain SiLU, "
    "when both have about the same number of parameters?"
)
SPEC = AblationSpec(
    experiment=ID,
    setting="feed_forward",
    usual=("swiglu",),
    ablated="silu",
    opening="With a plain SiLU in place of SwiGLU",
    example=(
        "swiglu_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, silu: {feed_forward: silu, d_ff: 288}}}"
    ),
    companions=("d_ff",),
)


def analyze(results: Results) -> Finding:
    """Return the paired difference between SiLU and SwiGLU, with both parameter counts."""
    return analyze_ablation(results, SPEC, add_details=parameter_counts)


def parameter_counts(experiment: ExperimentRuns, comparison: Comparison) -> tuple[dict[str, Metric], list[str]]:
    """Both models' sizes, and whether the comparison is one of equals."""
    variant, baseline = (
        experiment.seeds_of(name)[0].summary.parameters for name in (comparison.variant, comparison.baseline)
    )
    source = run_summary.table_path(experiment)
    metrics = {
        "baseline_parameters": Metric(baseline, "parameters", source),
        "parameters": Metric(variant, "parameters", source),
        "parameter_difference": Metric(variant / baseline - 1, "share of the baseline's", source),
    }
    widths = f"d_ff {experiment.setting(comparison.variant, 'd_ff')} without the gate and " \
             f"{experiment.setting(comparison.baseline, 'd_ff')} with it"  # fmt: skip
    if variant == baseline:
        equal = (
            f"Both models have exactly {format_int(variant)} parameters ({widths}), "
            "so the comparison is one of equal size."
        )
        return metrics, [equal]
    direction = "more" if variant > baseline else "fewer"
    return metrics, [
        f"The model without the gate has {format_int(variant)} parameters, "
        f"{format_percent(abs(variant / baseline - 1))} {direction} than the "
        f"{format_int(baseline)} of the baseline ({widths})."
    ]
