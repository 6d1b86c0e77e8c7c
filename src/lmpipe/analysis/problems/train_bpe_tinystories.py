"""Problem train_bpe_tinystories: the cost of training a tokenizer on the simple corpus, and its longest token."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.tokenizer_training import analyze_training
from lmpipe.analysis.results import Results

ID = "train_bpe_tinystories"


def analyze(results: Results) -> Finding:
    """Return cost, stages and longest tokens of the simple corpus's tokenizer."""
    return analyze_training(results, "simple")
