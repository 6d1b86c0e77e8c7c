"""Problem pre_norm_ablation: normalizing before each block against after it."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation
from lmpipe.analysis.results import Results

ID = "pre_norm_ablation"
SPEC = AblationSpec(
    experiment=ID,
    setting="norm",
    usual=("pre",),
    ablated="post",
    example=(
        "pre_norm_ablation: {corpus: {corpus}, "
        "runs: {baseline: {max_lr: {best_of: learning_rate}}, post_norm: {norm: post, sweep: {max_lr: [0.003, 0.01]}}}}"
    ),
    with_start=True,
)


def analyze(results: Results) -> Finding:
    """Compare post-norm with pre-norm, each at its own best rate."""
    return analyze_ablation(results, SPEC)
