"""Figures on the page: SVG for screens and phones in the colours of the page, with title, subtitle and data."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from lmpipe.analysis.finding import Figure
from lmpipe.report.plots.canvas import NARROW, THUMBNAIL, WIDE
from lmpipe.report.plots.figures import draw
from lmpipe.report.plots.palette import CSS_COLORS, Palette
from lmpipe.report.prose import Prose


@dataclass(frozen=True)
class FigureView:
    """A figure ready for the template; `narrow` is its form on a phone, empty if the wide one serves there, too."""

    name: str
    title: Markup
    subtitle: Markup
    wide: Markup
    narrow: Markup
    csv: str
    header: list[str]
    rows: list[list[str]]


def figure_view(prose: Prose, figure: Figure, palette: Palette) -> FigureView:
    """Return a figure of a finding, whose texts are blocks of its problem's template."""
    name, alt = f"{prose.problem.removeprefix('_')}-{figure.id}", prose.block(f"{figure.id}_alt")
    drawing = draw(figure.data, palette, WIDE)
    header, *rows = drawing.table()
    narrow = inline_svg(draw(figure.data, palette, NARROW).svg, f"{name}-n-", alt)
    wide = inline_svg(drawing.svg, f"{name}-", alt)
    title, subtitle = (prose.html(f"{figure.id}_{block}") for block in ("title", "subtitle"))
    return FigureView(f"{name}.csv", title, subtitle, wide, narrow, drawing.csv, header, rows)


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
