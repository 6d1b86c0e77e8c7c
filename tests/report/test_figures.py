import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from lmpipe.analysis.finding import Bars, Figure, Line, Lines
from lmpipe.report.plots.bars import pack
from lmpipe.report.plots.canvas import NARROW, THUMBNAIL, WIDE
from lmpipe.report.plots.figures import draw, y_range
from lmpipe.report.plots.forest import cut_at, visible_range
from lmpipe.report.plots.palette import BLUE, CSS_COLORS, HUES, RAMP, Palette
from tests.support.fake_figures import EFFECTS, FIGURES, figures


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", svg)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_equal_data_give_equal_bytes_and_a_table(name, size):
    first, second = (draw(FIGURES[name], Palette(figures()), size) for _ in range(2))
    assert first == second
    header, *rows = first.table()
    assert rows and all(len(row) == len(header) for row in rows)
    assert f'viewBox="0 0 {size.width * 0.75:g}' in first.svg


@pytest.mark.parametrize("name", FIGURES)
def test_thumbnails_have_no_text(name):
    assert texts(draw(FIGURES[name], Palette(), THUMBNAIL).svg) == []


@pytest.mark.parametrize("name", FIGURES)
def test_figures_use_colors_of_the_style_sheet_only(name):
    colors = set(re.findall(r"#[0-9a-f]{6}\b", draw(FIGURES[name], Palette(), WIDE).svg))
    assert colors <= set(CSS_COLORS)


def test_labels_are_drawn_as_they_are_written():
    line = Line("from $5_{ to $6", "baseline", [1.0, 2.0], [3.0, 4.0])
    assert line.label in texts(draw(Lines("tokens", "loss", [line]), Palette(), WIDE).svg)


def test_a_variant_keeps_its_color():
    palette = Palette(figures())
    assert palette.of(["no_norm", "baseline"])["no_norm"] == palette.of(["silu", "no_norm"])["no_norm"]
    colors = palette.of(["one", "two", "baseline"])
    assert colors["baseline"] == BLUE and len(set(colors.values())) == 3
    assert palette.of(["one"]) == {"one": colors["one"]}
    assert set(palette.of(["batch_1", "batch_2"]).values()) == {RAMP[0], RAMP[-1]}


def contrast_with_white(color: str) -> float:
    """Return the contrast of WCAG 2.2."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 1.05 / (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05)


@pytest.mark.parametrize("color", [*HUES, *RAMP])
def test_colors_are_readable_as_text(color):
    assert contrast_with_white(color) >= 4.5


def test_failed_seeds_are_counted_and_lines_have_labels():
    svg = draw(FIGURES["rates"], Palette(), WIDE).svg
    assert {"2/3", "3/3", "pre-norm", "no RMSNorm", "bigram"} <= set(texts(svg))
    assert "none" in texts(draw(FIGURES["lengths"], Palette()).svg), "missing bars"
    assert "1 of 3 failed" in " ".join(texts(draw(FIGURES["effects"], Palette(), WIDE).svg))


def titles(svg: str) -> set[str]:
    return set(re.findall(r"<title>(.*?)</title>", svg))


def test_marks_have_labels_under_the_pointer():
    labels = {
        "rates": {"no RMSNorm, rate 0.012: 1.5", "pre-norm, rate 0.22, short run: 2.78"},
        "effects": {"SiLU for SwiGLU, one seed: +0.015", "post-norm: +0.19 1 of 3 failed"},
        "hero": {"docs: 3.631 at 2.048 M"},
        "lengths": {"2, stories: 300"},
        "minutes": {"job 3: 9 s"},
    }
    for name, expected in labels.items():
        svg = draw(FIGURES[name], Palette(), WIDE).svg
        assert expected <= titles(svg), name
        assert "hover:" not in svg


def test_groups_of_bars_have_the_colours_of_their_variants():
    palette = Palette(figures())
    bars = Bars("tokens", ["1", "2"], {"stories": [1, 2], "Python documentation": [3, 4]}, ["stories", "docs"])
    assert set(palette.of(["docs"]).values()) <= set(re.findall(r"#[0-9a-f]{6}\b", draw(bars, palette, WIDE).svg))


def test_at_most_six_lines_have_labels():
    lines = [Line(f"run {index}", f"run {index}", [1, 2, 3], [index, 2, 1]) for index in range(9)]
    svg = draw(Lines("steps", "bits", lines), Palette(), WIDE).svg
    assert sum(text.startswith("run") for text in texts(svg)) == 6


def test_first_losses_do_not_stretch_the_axis_and_near_yardsticks_do():
    low, high = y_range(FIGURES["curves"])
    assert low < 1.29 and 3.11 < high < 5
    assert y_range(FIGURES["hero"])[1] > 6.93, "with a logarithmic axis of steps nothing is cut"


def test_axis_without_points_can_be_drawn():
    empty = Lines("steps", "loss", [Line("none", "none", [None], [None])], log_x=True)
    assert draw(Figure("empty", empty).data, Palette(), WIDE).table()[1] == ["none", "", ""]


def test_far_effects_are_cut():
    assert 0.19 <= cut_at(EFFECTS) < 0.95
    assert visible_range(EFFECTS, cut_at(EFFECTS))[1] < 0.3
    near = [replace(effect, difference=0.1, interval=(0.05, 0.15)) for effect in EFFECTS]
    assert cut_at(near) > 0.15


def test_spans_of_a_row_do_not_overlap():
    spans = FIGURES["minutes"].spans
    rows = pack(spans)
    assert max(rows) == 2
    for row in set(rows):
        members = sorted((span.start, span.end) for span, at in zip(spans, rows, strict=True) if at == row)
        assert all(a[1] <= b[0] + 0.01 for a, b in itertools.pairwise(members))


def test_drawing_is_saved_with_its_numbers(tmp_path):
    drawing = draw(FIGURES["lengths"], Palette())
    drawing.save(tmp_path / "lengths.svg")
    assert (tmp_path / "lengths.svg").read_text(encoding="utf-8") == drawing.svg
    assert (tmp_path / "lengths.csv").read_text(encoding="utf-8") == drawing.csv


def test_fonts_are_cached_beside_the_kernels(tmp_path):
    """In a new process, because matplotlib reads the variable when it is imported."""
    program = "import lmpipe.report.plots.style, matplotlib; print(matplotlib.get_cachedir())"
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "LMPIPE_CACHE")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": "/proc/home"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "lmpipe/matplotlib")
