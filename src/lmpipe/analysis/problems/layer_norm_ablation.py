"""Problem layer_norm_ablation: training without RMSNorm, at the baseline's rate and at a tuned rate."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_tuned_ablation
from lmpipe.analysis.results import Results

ID = "layer_norm_ablation"
TITLE = "Without RMSNorm"
QUESTION = (
    "What happens when every RMSNorm is removed and the model is trained at the rate that was best with it, "
    "and can a rate of its own make training stable again?"
)
SPEC = AblationSpec(
    experiment=ID,
    setting="norm",
    usual=("pre", "post"),
    ablated="none",
    opening="Without RMSNorm",
    example=(
        "layer_norm_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, no_norm: {norm: none}, no_norm_tuned: {norm: none, sweep: {max_lr: [0.001, 0.003]}}}}"
    ),
)


def analyze(results: Results) -> Finding:
    """Return the paired differences from the baseline: at its rate, and at the best rate without norms."""
    return analyze_tuned_ablation(results, SPEC, "without RMSNorm")
