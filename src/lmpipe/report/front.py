"""Front page of the report: the hero figure with generated texts, findings with thumbnails, caveats, and an index."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from lmpipe.analysis.finding import Figure, Finding, Forest
from lmpipe.analysis.problems.experiment_log import group_equal_runs
from lmpipe.analysis.results import Results
from lmpipe.data.documents import CorpusInfo
from lmpipe.io.formatting import format_seconds
from lmpipe.report.cards import CARDS, HERO, FigureView, Page, thumbnail
from lmpipe.report.prose import Prose
from lmpipe.study.editions import edition_of
from lmpipe.study.labels import corpus_label, study_label
from lmpipe.study.problems import ABLATIONS, PROBLEMS

MAX_FINDINGS, MAX_CHAPTER_FINDINGS, MAX_WARNINGS = 4, 2, 3
SMALL_MODEL = 10_000_000
# Seconds from which the title rounds to minutes.
LONG_STUDY = 300
ABLATIONS_TEMPLATE = "_ablations"  # no experiment has such a name


def make_front(page: Page, results: Results, corpora: Iterable[str]) -> dict[str, Any]:
    """Return the content of the front page by name; `corpora` are those that exist."""
    study, names = results.study, list(corpora)
    seconds, jobs = page.lineage.elapsed_seconds, page.lineage.jobs.values()
    edition = edition_of(study.handout)
    first = min((job.start for job in jobs), default=None)
    kicker = [f"study {study_label(study)}", *([f"Stanford {edition.title}"] if edition else [])]
    kicker += sorted({f"{job.environment.hardware.cores} cores" for job in jobs})
    kicker += [format_seconds(round(seconds))] if seconds else []
    kicker += [] if first is None else [datetime.fromtimestamp(first, UTC).date().isoformat()]
    kicker += sorted({job.environment.commit[:7] for job in jobs if job.environment.commit})
    main = page.problems.get(HERO[0])
    index = edition.problems if edition else {}
    runs = [same[0] for same in group_equal_runs(results.runs())]
    sizes = sorted({run.summary.parameters for run in runs})
    return {
        "kicker": kicker,
        "label": study_label(study),
        "num_models": len(runs),
        "is_small": max(sizes, default=0) < SMALL_MODEL,
        "sizes": sizes,
        "tokens": sum(run.summary.tokens for run in runs),
        # The line above the title has the seconds.
        "seconds": seconds and (60 * round(seconds / 60) if seconds > LONG_STUDY else round(seconds)),
        "hero": hero_figure(page),
        "progress": main.facts.get("progress", []) if main else [],
        "headlines": list(headlines(page)),
        "warnings": [prose.html("warning") for prose in available_prose(page) if prose.block("warning")][:MAX_WARNINGS],
        "index": [(name, page.prose[problem]) for problem, name in index.items() if problem in page.problems],
        "corpora": [
            (corpus_label(study, name), CorpusInfo.read(results.paths.corpus_info(name)), study.corpora[name])
            for name in names
        ],
    }


def hero_figure(page: Page) -> FigureView | None:
    """Return the figure of the main experiment for the front page: the one called hero, or its first."""
    problem, name = HERO
    figures = page.problems[problem].figures if problem in page.problems else []
    figure = min(figures, key=lambda figure: figure.id != name, default=None)
    return page.figure(page.prose[problem], figure) if figure else None


def available_prose(page: Page) -> list[Prose]:
    """Return the prose of the findings that have results, in the order of the page."""
    names = dict.fromkeys([*(name for cards in CARDS.values() for card in cards for name in card), *page.problems])
    return [page.prose[name] for name in names if name in page.problems and page.problems[name].status != "missing"]


def headlines(page: Page) -> Iterator[tuple[Prose, Markup]]:
    """Yield at most four findings in the order of the page, at most two of a chapter while others have some.

    Each has a small figure.
    """
    candidates = {prose.problem: prose for prose in available_prose(page) if prose.block("finding")}
    notable = notable_ablations(page.problems)
    first, later = [], []
    for problem in sorted(candidates, key=lambda name: name in ABLATIONS and name not in notable):
        chapter = [PROBLEMS[name].chapter for name in first if name in PROBLEMS]
        is_full = problem in PROBLEMS and chapter.count(PROBLEMS[problem].chapter) == MAX_CHAPTER_FINDINGS
        (later if is_full else first).append(problem)
    chosen = [*first, *later][:MAX_FINDINGS]
    for problem, prose in candidates.items():
        if problem in chosen:
            figures = prose.finding.figures or effects_figures(page.problems)
            yield prose, thumbnail(problem, figures[0], page.palette) if figures else Markup("")


def notable_ablations(problems: Mapping[str, Finding]) -> set[str]:
    """Return the ablation with the largest effect, and of the others the one that breaks at the lowest rate."""
    effects = {name: problems[name].effects[0] for name in ABLATIONS if name in problems and problems[name].effects}
    sizes = {name: abs(effect.difference or 0.0) for name, effect in effects.items()}
    largest = max(sizes, key=sizes.get, default="")
    edges = {name: effect.breaks_at or math.inf for name, effect in effects.items() if name != largest}
    return {largest, min(edges, key=edges.get, default="")} - {""}


def effects_figures(problems: Mapping[str, Finding]) -> list[Figure]:
    """Return the forest plot of the ablations in their usual unit, the largest effect first; none without effects."""
    rows = [effect for problem in ABLATIONS if problem in problems for effect in problems[problem].effects]
    units = [row.unit for row in rows]
    unit = max(units, key=units.count, default="")
    rows = [row for row in rows if row.unit == unit]
    rows = sorted(rows, key=lambda row: math.inf if row.difference is None else row.difference, reverse=True)
    return [Figure("effects", Forest(f"difference in final loss ({unit})", rows))] if rows else []


def forest_view(page: Page) -> FigureView | None:
    """Return the forest plot of the chapter of ablations."""
    for figure in effects_figures(page.problems):
        return page.figure(
            Prose(ABLATIONS_TEMPLATE, Finding("answered", effects=figure.data.rows), page.shared), figure
        )
    return None
