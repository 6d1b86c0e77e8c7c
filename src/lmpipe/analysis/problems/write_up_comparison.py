"""Figures of the write-up (2025) and of the study's edition of the handout beside a study's own."""

from lmpipe.analysis.finding import Finding, Reference, ReferenceRow
from lmpipe.analysis.results import Results
from lmpipe.study.corpora import UrlCorpus
from lmpipe.study.editions import ReferenceFigure, edition_of, write_up


def compare_with_references(problem: str, finding: Finding, results: Results) -> Reference:
    """Return the write-up's figures beside the study's, and the handout's for metrics that the study has."""
    edition = edition_of(results.study.handout)
    if edition is None:
        return Reference()
    figures = [("write-up (2025)", figure) for figure in write_up().write_up]
    figures += [(edition.title, figure) for figure in edition.figures if figure.metric in finding.metrics]
    return Reference([row(finding, *figure) for figure in figures if figure[1].problem == problem])


def row(finding: Finding, source: str, figure: ReferenceFigure) -> ReferenceRow:
    """Return one figure beside the finding's metric of its name."""
    metric = finding.metrics.get(figure.metric)
    return ReferenceRow(
        label=figure.label,
        reference=figure.value,
        value=metric.value if metric else None,
        missing_reason=metric.missing_reason if metric else "not measured in this study",
        unit=figure.unit,
        setting=", ".join(filter(None, [source, figure.setting])),
    )


def stand_in_for(results: Results, corpus: str) -> str | None:
    """Return the write-up's text that a corpus replaces; None if it is that text, or replaces none.

    It is that text if its training split has the text's checksum, or if it declares exactly that file.
    """
    settings = results.study.corpora[corpus]
    if settings.stands_for is None:
        return None
    checksum = write_up().texts[settings.stands_for].train_sha256
    declared = [text.sha256 for text in settings.files] if isinstance(settings, UrlCorpus) else []
    is_original = checksum == results.corpora[corpus].splits.train.sha256 or declared == [checksum]
    return None if is_original else settings.stands_for
