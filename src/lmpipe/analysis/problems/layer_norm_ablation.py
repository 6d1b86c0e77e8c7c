"""Problem layer_norm_ablation: training without RMSNorm."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation
from lmpipe.analysis.results import Results

ID = "layer_norm_ablation"
SPEC = AblationSpec(
    experiment=ID,
    setting="norm",
    usual=("pre", "post"),
    ablated="none",
    example=(
        "layer_norm_ablation: {corpus: {corpus}, "
        "runs: {baseline: {max_lr: {best_of: learning_rate}}, no_norm: {norm: none, sweep: {max_lr: [0.001, 0.003]}}}}"
    ),
    with_start=True,
)


def analyze(results: Results) -> Finding:
    """Compare the model without norms with the baseline, each at its own best rate."""
    return analyze_ablation(results, SPEC)
