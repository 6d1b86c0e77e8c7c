"""The study's graph of rules: which jobs a plan consists of, what each is made from, and a drawing of it as SVG."""

from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import records_of, rule_of

# A box holds a rule's name in two lines, its jobs and their time; columns and rows leave room for the arrows.
BOX_WIDTH, BOX_HEIGHT = 96, 60
COLUMN, ROW = 108, 76
MARGIN = 2
LEFT, CENTRE, RIGHT = range(3)


class Rule(NamedTuple):
    """A rule of the workflow: its place in the drawing, and the rules whose results it reads."""

    column: int
    row: int
    reads: tuple[str, ...] = ()


# As the rules' inputs say; find, report and collect_provenance read the results or records of all others besides.
RULES = {
    "download": Rule(LEFT, 0),
    "make_corpus": Rule(LEFT, 1, ("download",)),
    "explore_unicode": Rule(RIGHT, 1),
    "count_pretokens": Rule(LEFT, 2, ("make_corpus",)),
    "account_model": Rule(RIGHT, 2),
    "train_bpe": Rule(LEFT, 3, ("count_pretokens",)),
    "tune_sgd_toy": Rule(RIGHT, 3),
    "measure_model": Rule(RIGHT, 4),
    "measure_batch_sizes": Rule(RIGHT, 5),
    "encode_corpus": Rule(LEFT, 4, ("train_bpe",)),
    "encode_shard": Rule(CENTRE, 4, ("train_bpe",)),
    "join_tokens": Rule(CENTRE, 5, ("encode_shard",)),
    "evaluate_tokenizers": Rule(RIGHT, 6, ("encode_corpus", "join_tokens")),
    "train": Rule(LEFT, 6, ("encode_corpus", "join_tokens", "select_best")),
    "select_best": Rule(CENTRE, 6, ("train",)),
    "plot_experiment": Rule(LEFT, 7, ("train",)),
    "generate": Rule(CENTRE, 7, ("train",)),
    "find": Rule(
        CENTRE,
        8,
        (
            "plot_experiment",
            "generate",
            "evaluate_tokenizers",
            "explore_unicode",
            "account_model",
            "tune_sgd_toy",
            "measure_model",
            "measure_batch_sizes",
        ),
    ),
    "report": Rule(CENTRE, 9, ("find",)),
    "collect_provenance": Rule(CENTRE, 10, ("report",)),
}


def jobs_of(plan: Plan) -> dict[str, int]:
    """How many jobs each rule of a study stands for, in the order of the drawing; rules without a job are left out."""
    counts = {rule_of(verb): len(paths) for verb, paths in records_of(plan).items()}
    corpora = plan.study.corpora
    counts["download"] = len(plan.downloads())
    counts["encode_shard"] = sum(corpora[plan.tokenizers[name][0]].shards for name in plan.sharded_tokenizers())
    counts["collect_provenance"] = 1
    return {rule: counts[rule] for rule in RULES if counts.get(rule)}


def draw(jobs: Mapping[str, int], times: Mapping[str, str]) -> Markup:
    """The graph as an SVG of its own width in CSS pixels, which a style sheet colours.

    `times` says in words how long the jobs of a rule took. An arrow leads to what is made from a result; arrows that
    others imply are left out.
    """
    rows = sorted({RULES[rule].row for rule in jobs})
    places = {rule: (COLUMN * RULES[rule].column + MARGIN, ROW * rows.index(RULES[rule].row) + MARGIN) for rule in jobs}
    width = 2 * COLUMN + BOX_WIDTH + 14
    height = ROW * (len(rows) - 1) + BOX_HEIGHT + 2 * MARGIN
    arrows = [arrow(places, source, rule) for rule in jobs for source in RULES[rule].reads if source in jobs]
    boxes = [box(rule, *places[rule], jobs[rule], times.get(rule, "")) for rule in jobs]
    told = ", ".join(f"{rule} ({jobs_text(number)})" for rule, number in jobs.items())
    return Markup(
        '<svg class="dag" viewBox="0 0 {} {}" role="img" aria-label="The rules of this study in their order: {}.">'
        '<defs><marker id="dag-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M 0 0.5 L 8 4 L 0 7.5 Z"/></marker></defs>{}{}</svg>'
    ).format(width, height, told, Markup("").join(arrows), Markup("").join(boxes))


def box(rule: str, x: float, y: float, number: int, time: str) -> Markup:
    """A rule as a box: its name in at most two lines, its jobs and their time."""
    name = rule.replace("_", " ").split(maxsplit=1)
    lines = [("rule", line) for line in name] + [("jobs", line) for line in (jobs_text(number), time) if line]
    top = y + (BOX_HEIGHT - 13 * len(lines)) / 2 + 10
    text = [
        Markup('<text class="{}" x="{}" y="{}">{}</text>').format(look, x + BOX_WIDTH / 2, top + 13 * index, line)
        for index, (look, line) in enumerate(lines)
    ]
    return Markup('<g><rect x="{}" y="{}" width="{}" height="{}" rx="4"/>{}</g>').format(
        x, y, BOX_WIDTH, BOX_HEIGHT, Markup("").join(text)
    )


def jobs_text(number: int) -> str:
    """A number of jobs.

    >>> jobs_text(1), jobs_text(1200)
    ('1 job', '1,200 jobs')
    """
    return f"{number:,} job{'' if number == 1 else 's'}"


def arrow(places: Mapping[str, tuple[float, float]], source: str, target: str) -> Markup:
    """An arrow from one box to another: down, to the side, or from the right column round to find."""
    (x0, y0), (x1, y1) = places[source], places[target]
    below, above = y0 + BOX_HEIGHT, y1 - 1
    middle0, middle1 = x0 + BOX_WIDTH / 2, x1 + BOX_WIDTH / 2
    if y0 == y1:
        # Two rules that need one another: rates are chosen among runs, and runs are trained at them.
        level = y0 + BOX_HEIGHT / 2 + (8 if x0 < x1 else -8)
        ends = (x0 + BOX_WIDTH, x1 - 1) if x0 < x1 else (x0, x1 + BOX_WIDTH + 1)
        path = f"M {ends[0]} {level} L {ends[1]} {level}"
    elif RULES[source].column == RIGHT:
        bus, level0, level1 = x0 + BOX_WIDTH + 10, y0 + BOX_HEIGHT / 2, y1 + BOX_HEIGHT / 2
        path = f"M {x0 + BOX_WIDTH} {level0} L {bus} {level0} L {bus} {level1} L {x1 + BOX_WIDTH + 1} {level1}"
    elif x0 == x1:
        path = f"M {middle0} {below} L {middle1} {above}"
    else:
        # Down first, and to the side only in the gap above the target's row, where no box is in the way.
        gap = above - (ROW - BOX_HEIGHT)
        path = f"M {middle0} {below} V {gap} C {middle0} {above} {middle1} {gap} {middle1} {above}"
    return Markup('<path class="arrow" d="{}" marker-end="url(#dag-arrow)"/>').format(path)
