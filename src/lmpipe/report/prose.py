"""Prose of the report: one template for each problem, whose blocks are rendered from a finding's numbers."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lmpipe.analysis.finding import Finding, Metric
from lmpipe.io.formatting import format_bytes, format_count, format_int, format_number, format_seconds, join_words
from lmpipe.provenance.environment import PACKAGE
from lmpipe.report.table_cells import markdown_inline
from lmpipe.study.labels import corpus_label, experiment_label
from lmpipe.study.problems import PROBLEMS
from lmpipe.study.schema import Study

PROBLEM_TEMPLATES = PACKAGE / "report" / "templates" / "problems"
# Template of an experiment that belongs to no problem.
EXPERIMENT_TEMPLATE = "experiment.md.j2"
# Macros that every template may use.
SHARED_SENTENCES = "macros.j2"


def value_of(number: Any) -> Any:
    """Return the value of a metric, or the number itself."""
    return number.value if isinstance(number, Metric) else number


def number_filter(form: Callable[[float], str]) -> Callable[[Any], str]:
    """Return a filter for metrics and numbers; an undefined value is refused, so that templates ask first."""

    def apply(number: Any) -> str:
        value = value_of(number)
        if value is None:
            raise ValueError("the template prints a metric without a value; ask for it with has()")
        return form(value).replace("-", "−")

    return apply


def format_signed(value: float) -> str:
    """Return a difference with its sign, two digits after the point, or two significant ones if it is small.

    >>> format_signed(0.142), format_signed(-0.0042), format_signed(1.0)
    ('+0.14', '−0.0042', '+1.00')
    """
    text = f"{abs(value):.2f}" if abs(value) >= 0.0995 or value == 0 else format_number(abs(value), 2)
    return ("−" if value < 0 else "+") + text


def format_nats(value: float) -> str:
    """Return a loss with two digits after the point; three significant ones from 10 on, two below 0.1.

    >>> format_nats(3.3247), format_nats(18.219), format_nats(0.026)
    ('3.32', '18.2', '0.026')
    """
    return f"{value:.2f}" if 0.0995 <= abs(value) < 9.995 else format_number(value, 2 if abs(value) < 1 else 3)


def format_range(interval: Any) -> str:
    """Return an interval, of a metric or a pair: from its lower to its upper bound.

    >>> format_range((0.1104, 0.1742)), format_range((-0.0133, 0.0635))
    ('0.11 to 0.17', '−0.013 to 0.064')
    """
    low, high = interval.interval if isinstance(interval, Metric) else interval
    return " to ".join(format_nats(bound).replace("-", "−") for bound in (low, high))


def plural(number: Any, noun: str, plural_form: str = "") -> str:
    """Return a number with its noun.

    >>> plural(1, "seed"), plural(1200, "step"), plural(2, "batch", "batches")
    ('1 seed', '1,200 steps', '2 batches')
    """
    value = value_of(number)
    return f"{format_count(value)} {noun if value == 1 else plural_form or noun + 's'}"


FILTERS: dict[str, Callable[..., str]] = {
    "num": number_filter(format_number),
    "rate": number_filter(lambda value: format_number(value, 2)),
    "nats": number_filter(format_nats),
    "signed": number_filter(format_signed),
    "range": format_range,
    "percent": number_filter(lambda share: f"{format_number(100 * share, 2 if share < 1 else 3)} %"),
    "bytes": number_filter(format_bytes),
    "seconds": number_filter(format_seconds),
    "count": number_filter(format_count),
    "about": number_filter(lambda number: format_int(float(f"{number:.1e}"))),
    "times": number_filter(lambda factor: f"{format_number(float(f'{factor:.1e}'), 2)} times"),
    "join": lambda words: join_words(list(map(str, words))),
    "plural": plural,
    "value": value_of,
}


# Undefined names raise. Prose is escaped once, as Markdown.
TEMPLATES = Environment(loader=FileSystemLoader(PROBLEM_TEMPLATES), undefined=StrictUndefined)
TEMPLATES.filters |= FILTERS


class Prose:
    """Blocks of one finding's prose, as plain Markdown text."""

    def __init__(self, problem: str, finding: Finding, shared: Mapping[str, Any] | None = None):
        """Prepare the template of a problem; `shared` adds names that all templates may use, such as `label`."""
        self.problem, self.finding = problem, finding
        self.template: Template = TEMPLATES.select_template([f"{problem}.md.j2", EXPERIMENT_TEMPLATE])
        metrics = finding.metrics
        facts = dict(finding.facts) | {
            "problem": problem,
            "m": metrics,  # as attributes; an unknown name raises, so that no sentence has a hole
            "has": lambda metric: metric in metrics and metrics[metric].value is not None,
            "status": finding.status,
            "reason": finding.reason,
            "effects": finding.effects,
            "expectations": finding.expectations,
        }
        names = {"label": str} | dict(shared or {}) | facts
        names["say"] = TEMPLATES.get_template(SHARED_SENTENCES).make_module(names)
        self.context = self.template.new_context(names)

    @property
    def anchor(self) -> str:
        """Id of the card; a colon, which no name contains, keeps those of experiments apart from all other ids."""
        return self.problem if self.problem in PROBLEMS else f"experiment:{self.problem}"

    def block(self, name: str) -> str:
        """Return a block's text in one line; empty if the template has no such block."""
        block = self.template.blocks.get(name)
        return " ".join("".join(block(self.context)).split()) if block else ""

    def html(self, name: str) -> Markup:
        """Return a block as HTML."""
        return markdown_inline(self.block(name))


def shared_names(study: Study) -> dict[str, Any]:
    """Return the names that all templates of a study may use: `study` and `label("stories")`."""

    def label(name: str) -> str:
        if name in study.corpora:
            return corpus_label(study, name)
        return experiment_label(study, name) if name in study.experiments else name.replace("_", " ")

    return {"study": study, "label": label}
