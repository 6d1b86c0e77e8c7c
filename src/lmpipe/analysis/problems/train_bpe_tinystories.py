"""Problem train_bpe_tinystories: the cost of training a tokenizer on the simple corpus, and its longest token."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.tokenizer_training import analyze_training
from lmpipe.analysis.results import Results

ID = "train_bpe_tinystories"
TITLE = "Training a tokenizer on simple stories"
QUESTION = (
    "How long does training a byte-level BPE tokenizer on TinyStories take, how much memory, where does the time go, "
    "and does the longest token make sense?"
)


def analyze(results: Results) -> Finding:
    """Cost, stages and longest tokens of the simple corpus's tokenizer."""
    return analyze_training(results, "simple")
