"""Problem no_pos_emb: rotary position embeddings against none."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation
from lmpipe.analysis.results import Results

ID = "no_pos_emb"
SPEC = AblationSpec(
    experiment=ID,
    setting="position_embedding",
    usual=("rope",),
    ablated="none",
    example=(
        "no_pos_emb: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, nope: {position_embedding: none}}}"
    ),
)


def analyze(results: Results) -> Finding:
    """Compare NoPE with RoPE, each at its own best rate."""
    return analyze_ablation(results, SPEC)
