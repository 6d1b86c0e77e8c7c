"""Style of all figures, and drawings as SVG with the numbers that they show as CSV.

Text stays text in the SVG, so that it can be searched and takes the font of the page. Equal input gives equal bytes.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_number, is_number
from lmpipe.report.plots.palette import BACKGROUND, FOREGROUND, GRID

STYLE_SHEET = Path(__file__).parents[1] / "templates/figures.mplstyle"
# Colours are those of the page.
STYLE = {
    **matplotlib.rc_params_from_file(STYLE_SHEET, use_default_template=False),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor"), FOREGROUND),
    **dict.fromkeys(("xtick.color", "ytick.color"), FOREGROUND),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), BACKGROUND),
    "grid.color": GRID,
}
# Start of the id of an artist with a label, which becomes a <title> in the SVG: browsers show it under the pointer.
HOVER = "hover:"


def label_on_hover(artists: Iterable[Artist], text: str) -> None:
    """Give artists a label that browsers show under the pointer."""
    for artist in artists:
        artist.set_gid(HOVER + text)


@dataclass(frozen=True)
class Drawing:
    """A plot as SVG, and the numbers that it shows as CSV."""

    svg: str
    csv: str

    @classmethod
    def of(cls, figure: Figure, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Drawing":
        """Render a figure without dates or program names, and a table with six significant digits."""
        svg, table = io.StringIO(), io.StringIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([columns, *([csv_cell(value) for value in row] for row in rows)])
        titled = re.sub(rf'<g id="{HOVER}([^"]*)">', r"<g><title>\1</title>", svg.getvalue())
        return cls(round_coordinates(titled), table.getvalue())

    def table(self) -> list[list[str]]:
        """Return the header and the rows of the CSV text."""
        return list(csv.reader(io.StringIO(self.csv)))

    def save(self, path: str | Path) -> None:
        """Write the SVG file and the CSV file next to it, of the same name."""
        for target, text in ((Path(path), self.svg), (Path(path).with_suffix(".csv"), self.csv)):
            with atomic_write(target) as file:
                file.write(text)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell: six significant digits, and nothing for NaN and infinity.

    >>> csv_cell(2.3456789), csv_cell(1000.0), csv_cell(float("nan")), csv_cell("rope"), csv_cell(1e-23)
    ('2.34568', '1000', '', 'rope', '1e-23')
    """
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


def round_coordinates(svg: str) -> str:
    """Round the coordinates of paths to a hundredth of a point, which shortens the plots of an experiment by 14 %.

    >>> round_coordinates('<path d="M 1.234567 20.5"/>')
    '<path d="M 1.23 20.5"/>'
    """
    return re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", path[0]), svg
    )


def number_text(value: Any) -> str:
    """Return a tick or a setting as a short text.

    >>> number_text(0.003), number_text(20000), number_text(1e-23), number_text("rope")
    ('0.003', '20,000', '10⁻²³', 'rope')
    """
    return format_number(value, 4).removeprefix("1 × ") if is_number(value) else str(value)


def finite_or_nan(value: float | None, log: bool = False) -> float:
    """Return a number that can be drawn, or NaN for a gap; a logarithmic axis takes only positive numbers."""
    return value if value is not None and math.isfinite(value) and (value > 0 or not log) else math.nan
