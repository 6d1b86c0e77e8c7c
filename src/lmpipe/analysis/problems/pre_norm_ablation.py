"""Problem pre_norm_ablation: normalizing before each block against after it."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation, analyze_tuned_ablation, is_tuned
from lmpipe.analysis.results import Results

ID = "pre_norm_ablation"
TITLE = "Pre-norm against post-norm"
QUESTION = (
    "What changes when RMSNorm stands behind each attention and feed-forward block and its residual sum (post-norm, "
    "as in the original transformer) instead of before it (pre-norm)?"
)
SPEC = AblationSpec(
    experiment=ID,
    setting="norm",
    usual=("pre",),
    ablated="post",
    opening="With post-norm in place of pre-norm",
    example=(
        "pre_norm_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, post_norm: {norm: post}}}"
    ),
)


def analyze(results: Results) -> Finding:
    """Compare post-norm with pre-norm, also at learning rates of post-norm's own if any were tried."""
    experiment = results.experiment(ID)
    if experiment is not None and is_tuned(experiment, SPEC):
        return analyze_tuned_ablation(results, SPEC, "with post-norm")
    return analyze_ablation(results, SPEC)
