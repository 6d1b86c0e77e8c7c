"""Cards of the report: one question or several, each with its answer, one figure, and everything else folded away."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup, escape

from lmpipe.analysis.finding import Figure, Finding, Mark, MarkedText, Metric, Text
from lmpipe.analysis.runs import group_by
from lmpipe.io.formatting import format_seconds
from lmpipe.planning.lineage import Lineage
from lmpipe.report.plots.canvas import NARROW, THUMBNAIL, WIDE
from lmpipe.report.plots.figures import draw
from lmpipe.report.plots.palette import CSS_COLORS, Palette
from lmpipe.report.prose import Prose
from lmpipe.report.table_cells import FormattedTable, format_table
from lmpipe.study.problems import PROBLEMS

# Problems of each card, by chapter, in the order of a reader; the first problem names the card.
CARDS = {
    "training": (("learning_rate",), ("batch_size_experiment",), ("main_experiment",), ("generate",)),
    "ablations": (("layer_norm_ablation",), ("pre_norm_ablation",), ("no_pos_emb",), ("swiglu_ablation",)),
    "costs": (("transformer_accounting",), ("adamw_accounting",)),
    "tokenizers": (
        ("train_bpe_tinystories", "train_bpe_expts_owt"),
        ("tokenizer_experiments",),
        ("unicode1", "unicode2"),
    ),
    "warm_up": (("learning_rate_tuning",),),
}
DERIVATION, SAMPLES_PER_MODEL = "Derivation", 2
# An open sample is cut here; the whole text is folded away.
MAX_SAMPLE_LINES, SAMPLE_LINE_CHARACTERS = 10, 36
# Figure of the front page, by problem and name.
HERO = ("main_experiment", "hero")


@dataclass(frozen=True)
class FigureView:
    """A figure ready for the template; `narrow` is its form on a phone."""

    name: str
    title: Markup
    subtitle: Markup
    wide: Markup
    narrow: Markup
    csv: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Page:
    """Content that all parts of a page share."""

    study: str
    problems: Mapping[str, Finding]
    palette: Palette
    lineage: Lineage
    shared: Mapping[str, Any]

    @cached_property
    def prose(self) -> dict[str, Prose]:
        """Prose of each finding."""
        return {problem: Prose(problem, finding, self.shared) for problem, finding in self.problems.items()}

    def figure(self, prose: Prose, figure: Figure) -> FigureView:
        """Return a figure of a finding, whose texts are blocks of its problem's template."""
        name, alt = f"{prose.problem.removeprefix('_')}-{figure.id}", prose.block(f"{figure.id}_alt")
        wide, narrow = (draw(figure.data, self.palette, size) for size in (WIDE, NARROW))
        header, *rows = wide.table()
        views = inline_svg(wide.svg, f"{name}-", alt), inline_svg(narrow.svg, f"{name}-n-", alt)
        texts = (prose.html(f"{figure.id}_{block}") for block in ("title", "subtitle"))
        return FigureView(f"{name}.csv", *texts, *views, wide.csv, header, rows)


@dataclass(frozen=True)
class Card:
    """Problems that share a figure and numbers; `samples` are texts in place of a figure."""

    entries: list[Prose]
    figures: list[FigureView]
    samples: list[MarkedText]
    texts: list[Text | MarkedText]
    tables: list[FormattedTable]
    metrics: dict[str, Metric]
    sources: list[str]
    stages: list[tuple[str, int, list[int], str]]
    """Jobs behind the metrics: rule, number of jobs, seeds and total wall time; empty without records."""
    commands: list[str]
    """Commands that make the results again."""


def plan_chapters(names: Collection[str], others_first: bool) -> dict[str, list[tuple[str, ...]]]:
    """Return the cards that the named findings fill, by chapter; experiments of no problem are in "other"."""
    others = tuple((name,) for name in names if name not in PROBLEMS)
    chapters = {**({"other": others} if others_first else {}), **CARDS, "other": others}
    present = {
        chapter: [card for members in cards if (card := tuple(name for name in members if name in names))]
        for chapter, cards in chapters.items()
    }
    return {chapter: cards for chapter, cards in present.items() if cards}


def make_card(page: Page, problems: Sequence[str]) -> Card:
    """Return the card of one or several problems; the hero figure is on the front page."""
    entries = [page.prose[problem] for problem in problems]
    findings = [entry.finding for entry in entries]
    figures = [
        page.figure(entry, figure)
        for entry in entries
        for figure in entry.finding.figures
        if (entry.problem, figure.id) != HERO
    ]
    texts = [text for finding in findings for text in finding.texts if not is_derivation(text)]
    # The first samples of each model, whose name begins the caption; the others are folded away.
    marked = [text for text in texts if isinstance(text, MarkedText)]
    by_model = group_by(marked, lambda text: text.caption.partition(",")[0])
    samples = [] if figures else [text for alike in by_model.values() for text in alike[:SAMPLES_PER_MODEL]]
    other_texts = [text for text in texts if text not in samples]
    metrics = {name: metric for finding in findings for name, metric in finding.metrics.items()}
    sources = sorted({metric.source for metric in metrics.values()} - {""})
    stages = stage_jobs(page.lineage, sources)
    return Card(
        entries,
        figures,
        list(map(cut_sample, samples)),
        other_texts + [text for text in samples if cut_sample(text) != text],
        [format_table(table) for finding in findings for table in finding.tables if not is_derivation(table)],
        metrics,
        sources,
        stages,
        page.lineage.rebuild_commands(sources, page.study) if stages else [],
    )


def stage_jobs(lineage: Lineage, sources: Sequence[str]) -> list[tuple[str, int, list[int], str]]:
    """Return rule, number, seeds and total wall time of the jobs behind result files, in the order of the rules."""
    return [
        (
            rule,
            len(members),
            sorted({seed for job in members for seed in job.seeds}),
            format_seconds(sum(job.wall_seconds for job in members)),
        )
        for rule, members in group_by(lineage.ancestors(sources), lambda job: job.rule).items()
    ]


def cut_sample(text: MarkedText) -> MarkedText:
    """Return the first lines of a sample as they are about set in a card, with an ellipsis if there are more."""
    spans: list[tuple[str, Mark]] = []
    lines, column = 1, 0
    for piece, mark in text.spans:
        for index, character in enumerate(piece):
            if character == "\n" or column == SAMPLE_LINE_CHARACTERS:
                lines, column = lines + 1, 0
            if lines > MAX_SAMPLE_LINES:
                return MarkedText(text.caption, [*spans, (piece[:index].rstrip() + " …", mark)])
            column += character != "\n"
        spans.append((piece, mark))
    return text


def is_derivation(element: Any) -> bool:
    """Return True for tables and texts that belong to the appendix."""
    return element.caption.startswith(DERIVATION)


# --- figures ----------------------------------------------------------------------------------------------------------


def thumbnail(problem: str, figure: Figure, palette: Palette) -> Markup:
    """Return a small form of a figure without text, for the front page."""
    return inline_svg(draw(figure.data, palette, THUMBNAIL).svg, f"{problem}-{figure.id}-t-", "")


def inline_svg(svg: str, id_prefix: str, alt: str) -> Markup:
    """Return an SVG file as an element with unique ids, the colours of the page, and the width of its box.

    Without an alternative text it is hidden from screen readers.
    """
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{id_prefix}\1"', body)
    body = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{id_prefix}\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{id_prefix}\1)", body)
    for color, css_color in CSS_COLORS.items():
        body = body.replace(color, css_color)
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    compact = re.sub(r">\s+<", "><", body.partition(">")[2].strip())
    label = f'role="img" aria-label="{escape(alt)}"' if alt else 'aria-hidden="true"'
    return Markup(f"<svg {view_box} {label}>{compact}")
