"""Problem train_bpe_expts_owt: a tokenizer of web text, its longest token, and how it differs from the stories' one."""

from dataclasses import replace

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.tokenizer_training import (
    analyze_training,
    comparison_metrics,
    comparison_sentences,
    comparison_tables,
)
from lmpipe.analysis.results import Results

ID = "train_bpe_expts_owt"
TITLE = "Training a tokenizer on web text"
QUESTION = (
    "What does training a byte-level BPE tokenizer on OpenWebText cost, what is its longest token and does that make "
    "sense, and how does its vocabulary differ from the one of TinyStories?"
)


def analyze(results: Results) -> Finding:
    """Return the cost, stages and longest tokens of the web tokenizer, and its overlap with the simple one."""
    finding = analyze_training(results, "web")
    if finding.status == "missing":
        return finding
    return replace(
        finding,
        metrics=finding.metrics | comparison_metrics(results),
        sentences=[*finding.sentences, *comparison_sentences(results)],
        tables=[*finding.tables, *comparison_tables(results)],
    )
