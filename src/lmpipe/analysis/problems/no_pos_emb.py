"""Problem no_pos_emb: rotary position embeddings against none."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.ablation import AblationSpec, analyze_ablation
from lmpipe.analysis.results import Results

ID = "no_pos_emb"
TITLE = "No position embeddings"
QUESTION = (
    "How well does the model learn without any position embedding (NoPE), where only the causal mask tells it about "
    "order, compared with rotary embeddings (RoPE)?"
)
SPEC = AblationSpec(
    experiment=ID,
    setting="position_embedding",
    usual=("rope",),
    ablated="none",
    opening="Without position embeddings (NoPE in place of RoPE)",
    example=(
        "no_pos_emb: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
        "runs: {baseline: {}, nope: {position_embedding: none}}}"
    ),
)


def analyze(results: Results) -> Finding:
    """Return the paired difference between NoPE and RoPE."""
    return analyze_ablation(results, SPEC)
