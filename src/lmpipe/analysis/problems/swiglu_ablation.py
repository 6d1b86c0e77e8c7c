"""Problem swiglu_ablation: the gated feed-forward against a plain one of equal size."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation
from lmpipe.analysis.results import Results

ID = "swiglu_ablation"
SPEC = AblationSpec(
    experiment=ID,
    setting="feed_forward",
    usual=("swiglu",),
    ablated="silu",
    example=(
        "swiglu_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, silu: {feed_forward: silu, d_ff: 288}}}"
    ),
    companions=("d_ff",),
)


def analyze(results: Results) -> Finding:
    """Compare a plain SiLU with SwiGLU, with both parameter counts."""
    return analyze_ablation(results, SPEC)
