import re

import pytest

from lmpipe.analysis.problems.registry import analyze_problem
from lmpipe.report.plots.ablations import Effect, effects_in, forest_plot
from lmpipe.report.plots.style import BACKGROUND, BLUE
from lmpipe.study.problems import ABLATIONS

MARKER = re.compile(r"fill: (#\w+); stroke: #0072b2; stroke-width: 1.4")


def effect(value, interval=None, reason=""):
    return Effect("swiglu_ablation", "silu", "SwiGLU against SiLU", value, interval, "nats per token", reason)


def test_effects_are_the_differences_of_every_ablation(fabricated):
    problems = {name: analyze_problem(name, fabricated) for name in ABLATIONS}
    effects = {(effect.problem, effect.variant): effect for effect in effects_in(problems)}
    assert {problem for problem, _ in effects} == set(ABLATIONS)
    losses = {name: fabricated.experiment("swiglu_ablation").losses(name) for name in ("baseline", "silu")}
    differences = [losses["silu"][seed] - losses["baseline"][seed] for seed in (0, 1, 2)]
    silu = effects["swiglu_ablation", "SiLU"]
    assert silu.value == pytest.approx(sum(differences) / 3)
    assert silu.interval[0] < silu.value < silu.interval[1]
    nope = effects["no_pos_emb", "NoPE"]
    assert nope.interval is None and nope.text.endswith("(one seed)")
    assert effects_in({}) == []


def test_diverged_variant_has_its_reason_and_no_dot():
    drawing = forest_plot([effect(None, reason="every seed diverged"), effect(0.2, (0.1, 0.3))])
    assert "every seed diverged" in drawing.svg
    assert len(MARKER.findall(drawing.svg)) == 1


@pytest.mark.parametrize(
    ("interval", "face"), [((0.1, 0.3), BLUE), ((-0.1, 0.5), BACKGROUND), (None, BACKGROUND), ((-0.3, -0.1), BLUE)]
)
def test_dot_is_filled_if_the_interval_excludes_zero(interval, face):
    value = sum(interval) / 2 if interval else 0.2
    assert MARKER.findall(forest_plot([effect(value, interval)]).svg) == [face]


def test_numbers_of_the_plot_are_its_csv():
    assert forest_plot([effect(0.2, (0.1, 0.3)), effect(0.5)]).table()[1:] == [
        ["swiglu_ablation", "silu", "0.2", "0.1", "0.3"],
        ["swiglu_ablation", "silu", "0.5", "", ""],
    ]
