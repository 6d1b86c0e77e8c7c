"""Problem train_bpe_expts_owt: a tokenizer of web text, its longest token, and how it differs from the stories' one."""

from dataclasses import replace

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems import tokenizer_training as training
from lmpipe.analysis.results import Results

ID = "train_bpe_expts_owt"


def analyze(results: Results) -> Finding:
    """Return cost, stages and longest tokens of the web corpus's tokenizer, and its overlap with the simple one."""
    finding = training.analyze_training(results, "web")
    if finding.status == "missing":
        return finding
    return replace(
        finding,
        metrics=finding.metrics | training.comparison_metrics(results) | training.zipf_exponents(results),
        facts=finding.facts | training.comparison_facts(results),
        tables=[*finding.tables, *training.kinds_table(results)],
        figures=training.comparison_figures(results),
    )
