"""Problem layer_norm_ablation: training without RMSNorm, at the baseline's rate and at a rate of its own."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import Question
from lmpipe.analysis.problems.tuned_ablation import analyze_tuned_ablation
from lmpipe.analysis.results import Results

ID = "layer_norm_ablation"
TITLE = "Without RMSNorm"
QUESTION = (
    "What happens when every RMSNorm is removed and the model is trained at the rate that was best with it, "
    "and can a rate of its own make training stable again?"
)
LINES = (
    "layer_norm_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
    "runs: {baseline: {}, no_norm: {norm: none}, no_norm_tuned: {norm: none, sweep: {max_lr: [0.001, 0.003]}}}}"
)
ABLATION = Question("norm", ("pre", "post"), "none", "Without RMSNorm")


def analyze(results: Results) -> Finding:
    """The paired differences to the baseline, at its own rate and at the best rate tried without norms."""
    return analyze_tuned_ablation(results, ID, LINES, ABLATION, "without RMSNorm")
