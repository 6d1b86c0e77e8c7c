import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from lmpipe.report.plots.common import LONG_LABEL, bar_plot, legend_rows, line_plot, number_text, shorten
from lmpipe.report.plots.palette import COLD_TO_WARM, INK, ON_A_PAGE, palette

SVG = "{http://www.w3.org/2000/svg}"


def texts(path) -> list[str]:
    """The texts of an SVG, in their order."""
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter(f"{SVG}text")]


def drawn_points(path, colour: str) -> int:
    """How many points the lines of one colour go through."""
    outlines = [
        node.get("d")
        for node in ElementTree.parse(path).iter(f"{SVG}path")
        if f"stroke: {colour}" in node.get("style", "") and node.get("clip-path")
    ]
    return sum(len(re.findall("[ML]", outline)) for outline in outlines)


def test_line_plot_keeps_text_as_text_and_names_everything(tmp_path):
    path = tmp_path / "figures" / "toy.svg"
    line_plot(
        path, {"rate <1>": ([1, 2], [3.0, 1.0]), "rate 2": ([1, 2], [3.0, 4.0])}, "iteration", "loss",
        title="The toy", hlines={"start": 3.0}, note="Both start alike.",
    )  # fmt: skip
    assert {"iteration", "loss", "The toy", "rate <1>", "rate 2", "start", "Both start alike."} <= set(texts(path))


def test_beside_a_plot_lie_its_numbers(tmp_path):
    line_plot(tmp_path / "lines.svg", {"a,b": ([1, 2], [0.123456789, None]), "c": ([3], [math.nan])}, "step", "loss")
    assert (tmp_path / "lines.csv").read_text(
        encoding="utf-8"
    ) == 'series,step,loss\n"a,b",1,0.123457\n"a,b",2,\nc,3,\n'
    bar_plot(tmp_path / "bars.svg", ["x", "y"], {"one": [1.0, 2.0], "two": [None, 1e9]}, "bytes")
    rows = (tmp_path / "bars.csv").read_text(encoding="utf-8").splitlines()
    assert rows == ["bar,series,bytes", "x,one,1", "x,two,", "y,one,2", "y,two,1e+09"]


def test_line_plot_leaves_gaps_where_there_is_no_number(tmp_path):
    xs = list(range(6))
    line_plot(tmp_path / "all.svg", {"a": (xs, [1.0, 2.0, 3.0, 2.0, 1.0, 3.0])}, "x", "y")
    line_plot(tmp_path / "gaps.svg", {"a": (xs, [1.0, None, 3.0, math.nan, math.inf, 3.0])}, "x", "y")
    line_plot(tmp_path / "log.svg", {"a": (xs, [1.0, 2.0, 3.0, 0.0, -1.0, 3.0])}, "x", "y", log_y=True)
    blue = palette(1)[0]
    assert drawn_points(tmp_path / "all.svg", blue) == 6
    assert drawn_points(tmp_path / "gaps.svg", blue) == 3
    assert drawn_points(tmp_path / "log.svg", blue) == 4


def test_plots_are_the_same_bytes_every_time_and_hold_no_date(tmp_path):
    for name in ("first.svg", "second.svg"):
        bar_plot(tmp_path / name, ["a", "b"], {"x": [1.0, 2.0], "y": [3.0, None]}, "bytes per token")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert "<metadata" not in (tmp_path / "first.svg").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize("horizontal", [False, True])
def test_bar_plot_tells_where_a_value_is_missing(tmp_path, horizontal):
    path = tmp_path / "bars.svg"
    groups = {"sample": [4.1, None], "split": [4.0, math.nan]}
    bar_plot(path, ["own", "other"], groups, "bytes per token", horizontal=horizontal, title="Compression")
    found = [text.strip() for text in texts(path)]
    assert found.count("none") == 2
    assert {"own", "other", "bytes per token", "Compression", "sample", "split"} <= set(found)


def test_stacked_bars_stand_on_each_other(tmp_path):
    path = tmp_path / "stacked.svg"
    bar_plot(path, ["all"], {"a": [1.0], "b": [2.0]}, "share", stacked=True)
    boxes = {}
    for colour in palette(2):
        (outline,) = (
            node.get("d")
            for node in ElementTree.parse(path).iter(f"{SVG}path")
            if node.get("clip-path") and f"fill: {colour}" in node.get("style", "")
        )
        boxes[colour] = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", outline)]
    lower, upper = (boxes[colour] for colour in palette(2))
    assert max(upper) == pytest.approx(min(lower), abs=0.02)
    assert max(upper) - min(upper) == pytest.approx(2 * (max(lower) - min(lower)), abs=0.05)


def test_palettes_are_distinct_and_every_colour_has_its_place_on_a_page():
    for count in range(1, 7):
        assert len(set(palette(count))) == count
    assert palette(40) == COLD_TO_WARM
    assert {INK, *COLD_TO_WARM} <= ON_A_PAGE.keys()


@pytest.mark.parametrize(
    ("value", "text"), [(0.003, "0.003"), (20000, "20,000"), (1e-23, "10⁻²³"), ("rope", "rope"), (1, "1"), (0.0, "0")]
)
def test_ticks_are_plain_numbers(value, text):
    assert number_text(value) == text


def test_outlines_lose_only_digits_that_cannot_be_seen():
    assert shorten(' d="M 1.234567 -20.5 L 0.996 7"') == ' d="M 1.23 -20.5 L 1.00 7"'


def test_long_labels_get_a_row_each_and_are_cut_where_they_would_run_off(tmp_path):
    assert legend_rows(["a", "b", "c"]) == 2
    assert legend_rows(["a" * 40, "b", "c"]) == 3
    assert legend_rows(["alone"]) == 0
    line_plot(tmp_path / "long.svg", {"l" * 100: ([1, 2], [1, 2]), "short": ([1, 2], [2, 3])}, "x", "y")
    assert "l" * (LONG_LABEL - 1) + "…" in texts(tmp_path / "long.svg")
