"""Problem train_bpe_expts_owt: a tokenizer of web text, its longest token, and how it differs from the stories' one."""

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.tokenizer_training import (
    comparison_figures,
    comparison_sentences,
    comparison_tables,
    find_training,
)
from lmpipe.analysis.results import Results

ID = "train_bpe_expts_owt"
TITLE = "Training a tokenizer on web text"
QUESTION = (
    "What does training a byte-level BPE tokenizer on OpenWebText cost, what is its longest token and does that make "
    "sense, and how does its vocabulary differ from the one of TinyStories?"
)


def find(results: Results) -> Finding:
    """Cost, stages and longest tokens of the web corpus's tokenizer, and its vocabulary beside the simple one's."""
    finding = find_training(results, "web")
    if finding.status != "absent":
        finding.figures |= comparison_figures(results)
        finding.sentences += comparison_sentences(results)
        finding.tables += comparison_tables(results)
    return finding
