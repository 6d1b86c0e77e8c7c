import re
import xml.etree.ElementTree as ElementTree

import pytest

from lmpipe.analysis.finding import BarPlot, LinePlot, Series
from lmpipe.report.plots.charts import draw
from lmpipe.report.plots.style import (
    COLD_TO_WARM,
    FOREGROUND,
    LONG_LABEL,
    OLD_CSS_COLORS,
    Drawing,
    legend_rows,
    number_text,
    palette,
    round_coordinates,
)

SVG = "{http://www.w3.org/2000/svg}"
BARS = BarPlot("Compression", "bytes per token", ["own", "other"], {"sample": [4.1, None], "split": [4.0, None]})


def lines(*series, **options):
    return draw(LinePlot("The toy", "step", "loss", [Series(*values) for values in series], **options))


def texts(drawing) -> list[str]:
    """Return the texts of a drawing, in order."""
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(drawing.svg).iter(f"{SVG}text")]


def outlines(drawing, style: str) -> list[str]:
    """Return the outlines of the data with a style."""
    nodes = ElementTree.fromstring(drawing.svg).iter(f"{SVG}path")
    return [node.get("d") for node in nodes if node.get("clip-path") and style in node.get("style", "")]


def test_line_plot_keeps_its_texts():
    drawing = lines(("rate <1>", [1, 2], [3.0, 1.0]), ("rate 2", [1, 2], [3.0, 4.0]))
    assert {"step", "loss", "The toy", "rate <1>", "rate 2"} <= set(texts(drawing))


def test_drawing_is_saved_and_read_with_its_numbers(tmp_path):
    drawing = lines(("a,b", [1, 2], [0.123456789, None]), ("c", [3], [1e9]))
    drawing.save(tmp_path / "figures/lines.svg")
    assert Drawing.read(tmp_path / "figures/lines.svg") == drawing
    csv_text = (tmp_path / "figures/lines.csv").read_text(encoding="utf-8")
    assert csv_text == 'series,step,loss\n"a,b",1.0,0.123457\n"a,b",2.0,\nc,3.0,1e+09\n'.replace(".0,", ",")
    assert draw(BARS).table()[1:] == [
        ["own", "sample", "4.1"],
        ["own", "split", "4"],
        ["other", "sample", ""],
        ["other", "split", ""],
    ]


@pytest.mark.parametrize(
    ("ys", "log_y", "points"),
    [
        ([1.0, 2.0, 3.0, 2.0, 1.0, 3.0], False, 6),
        ([1.0, None, 3.0, None, None, 3.0], False, 3),
        ([1.0, 2.0, 3.0, 0.0, -1.0, 3.0], True, 4),
    ],
)
def test_missing_numbers_are_gaps(ys, log_y, points):
    drawing = lines(("a", list(range(6)), ys), log_y=log_y)
    (outline,) = outlines(drawing, f"stroke: {palette(1)[0]}")
    assert len(re.findall("[ML]", outline)) == points


def test_plots_are_reproducible_and_without_dates():
    assert draw(BARS) == draw(BARS)
    assert "<metadata" not in draw(BARS).svg


@pytest.mark.parametrize("horizontal", [False, True])
def test_missing_bars_are_marked(horizontal):
    bars = BarPlot(BARS.title, BARS.ylabel, BARS.labels, BARS.groups, horizontal=horizontal)
    labels = texts(draw(bars))
    assert labels.count("none") == 2
    assert {"own", "other", "bytes per token", "Compression", "sample", "split"} <= set(labels)


def test_stacked_bars_are_on_top_of_each_other():
    drawing = draw(BarPlot("", "share", ["all"], {"a": [1.0], "b": [2.0]}, stacked=True))
    lower, upper = (
        [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", outlines(drawing, f"fill: {colour}")[0])]
        for colour in palette(2)
    )
    assert max(upper) == pytest.approx(min(lower), abs=0.02)
    assert max(upper) - min(upper) == pytest.approx(2 * (max(lower) - min(lower)), abs=0.05)


def test_palettes_are_distinct_and_every_color_has_a_replacement():
    for count in range(1, 7):
        assert len(set(palette(count))) == count
    assert palette(40) == COLD_TO_WARM
    assert {FOREGROUND, *COLD_TO_WARM} <= OLD_CSS_COLORS.keys()


@pytest.mark.parametrize(
    ("value", "text"), [(0.003, "0.003"), (20000, "20,000"), (1e-23, "10⁻²³"), ("rope", "rope"), (1, "1"), (0.0, "0")]
)
def test_ticks_are_plain_numbers(value, text):
    assert number_text(value) == text


def test_coordinates_are_rounded():
    assert round_coordinates(' d="M 1.234567 -20.5 L 0.996 7"') == ' d="M 1.23 -20.5 L 1.00 7"'


def test_long_labels_have_a_row_each_and_are_truncated():
    assert legend_rows(["a", "b", "c"]) == 2
    assert legend_rows(["a" * 40, "b", "c"]) == 3
    assert legend_rows(["alone"]) == 0
    drawing = lines(("l" * 100, [1, 2], [1, 2]), ("short", [1, 2], [2, 3]))
    assert "l" * (LONG_LABEL - 1) + "…" in texts(drawing)
