import xml.etree.ElementTree as ElementTree

import pytest

from lmpipe.analysis.problems.registry import module_of
from lmpipe.report.plots.ablations import Effect, draw, effects_in, limits, ticks

SVG = ElementTree.fromstring
ABLATIONS = ("layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "swiglu_ablation")


def effect(value, interval=None, reason=""):
    return Effect("swiglu_ablation", "SwiGLU against SiLU", "silu", value, interval, "nats per token", reason)


@pytest.fixture(scope="module")
def found(fabricated):
    """What the ablations' own modules find in a study, as findings.json tells it."""
    problems = {}
    for name in ABLATIONS:
        module = module_of(name)
        figures = {key: vars(figure) for key, figure in module.analyze(fabricated).metrics.items()}
        problems[name] = {"title": module.TITLE, "metrics": figures}
    return effects_in(problems)


def test_every_ablation_of_a_study_is_drawn_with_its_own_numbers(fabricated, found):
    told = {(one.problem, one.variant): one for one in found}
    assert {problem for problem, _ in told} == set(ABLATIONS)
    losses = {name: fabricated.experiment("swiglu_ablation").losses(name) for name in ("baseline", "silu")}
    differences = [losses["silu"][seed] - losses["baseline"][seed] for seed in (0, 1, 2)]
    silu = told["swiglu_ablation", "silu"]
    assert silu.value == pytest.approx(sum(differences) / 3)
    assert silu.interval[0] < min(differences) and max(differences) < silu.interval[1]
    nope = told["no_pos_emb", "nope"]
    assert nope.interval is None and nope.words.endswith("(one seed)")


def test_a_variant_that_diverged_is_shown_with_its_reason():
    svg = SVG(draw([effect(None, reason="every seed diverged"), effect(0.2, (0.1, 0.3))]))
    assert "every seed diverged" in "".join(svg.itertext())
    assert "every seed diverged" in svg.get("aria-label")
    assert len(list(svg.iter("circle"))) == 1


@pytest.mark.parametrize(
    ("interval", "look"), [((0.1, 0.3), "dot"), ((-0.1, 0.5), "dot open"), (None, "dot open"), ((-0.3, -0.1), "dot")]
)
def test_only_what_is_resolved_is_filled(interval, look):
    value = sum(interval) / 2 if interval else 0.2
    (dot,) = SVG(draw([effect(value, interval)])).iter("circle")
    assert dot.get("class") == look


@pytest.mark.parametrize("values", [[0.2], [-0.3, 0.1], [0.0], [1e-5], [40.0, -3.0], [None]])
def test_zero_and_every_interval_lie_inside_the_picture(values):
    effects = [effect(value, None if value is None else (value - abs(value), value + abs(value))) for value in values]
    low, high = limits(effects)
    marks = ticks(low, high)
    assert low < 0 < high and 0.0 in marks
    assert all(low <= mark <= high for mark in marks) and len(marks) <= 7
    for dot in SVG(draw(effects)).iter("circle"):
        assert 12 <= float(dot.get("cx")) <= 308


def test_a_study_without_ablations_has_no_such_drawing():
    assert effects_in({"unicode1": {"title": "", "metrics": {}}}) == []


def test_a_long_name_leaves_room_for_the_words_behind_it():
    long = Effect("pre_norm_ablation", "x", "post_norm_tuned_max_lr=0.003", 0.667, (0.64, 0.694), "nats per token", "")
    texts = [element.text for element in SVG(draw([long])).iter() if element.tag.endswith("text")]
    (name,) = (text for text in texts if text.startswith("post_norm"))
    assert name.endswith("…") and len(name) + len(long.words) <= 41
    assert "post_norm_tuned_max_lr=0.003" in draw([long]), "for those who hear it"
