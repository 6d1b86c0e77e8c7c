import json
import shutil
from dataclasses import replace

import pytest
from jinja2 import DictLoader, UndefinedError

from lmpipe.analysis.finding import Effect, Finding, Findings, Metric
from lmpipe.analysis.problems.registry import analyze_all, analyze_problem
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_count, format_number, is_number
from lmpipe.planning.plan import load_plan
from lmpipe.report import prose
from lmpipe.report.prose import PROBLEM_TEMPLATES, SHARED_SENTENCES, Prose, format_nats, shared_names
from lmpipe.study.loader import read_study_file
from lmpipe.study.problems import PROBLEMS
from lmpipe.study.schema import Study
from tests.support.fake_results import EXPERIMENTS, change_summary, fabricate_study, fabricate_yardsticks
from tests.support.laptop_findings import STORED, STUDY_FILE
from tests.support.prose import render
from tests.support.prose_lint import lint, numbers_in, page_faults

TEMPLATE = """
{% block question %}Which rate is best?{% endblock %}
{% block answer %}**{{ m.best_lr | num }} is best**, with a loss of {{ m.loss | nats }}.{% endblock %}
{% block details %}{% if has("edge") %}It breaks.{% endif %}{% endblock %}
"""
FINDING = Finding("answered", metrics={"best_lr": Metric(0.01414), "loss": Metric(3.3247), "edge": Metric(None)})


def test_blocks_are_rendered_from_metrics_and_an_unknown_one_is_an_error(monkeypatch):
    unknown = "{% block answer %}{{ m.nothing | num }}{% endblock %}"
    shared = (PROBLEM_TEMPLATES / SHARED_SENTENCES).read_text(encoding="utf-8")
    loader = DictLoader({"learning_rate.md.j2": TEMPLATE, "generate.md.j2": unknown, SHARED_SENTENCES: shared})
    monkeypatch.setattr(prose.TEMPLATES, "loader", loader)
    text = Prose("learning_rate", FINDING)
    assert text.block("answer") == "**0.0141 is best**, with a loss of 3.32."
    assert text.html("answer") == "<strong>0.0141 is best</strong>, with a loss of 3.32."
    assert text.block("details") == text.block("caveat") == ""
    with pytest.raises(UndefinedError, match="nothing"):
        Prose("generate", FINDING).block("answer")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The loss is " + "very " * 36 + "low.", "40 words"),
        ("Losses are 1, 2, 3 and 4.", "4 numbers"),
        ("The loss is 3.3247.", "3.3247 has more than 3 significant digits"),
        ("The run max_lr=1 ends.", "max_lr is a raw name"),
        ("They end.", "'They' has no noun"),
        ("This is low.", "'This is' has no noun"),
    ],
)
def test_faults_of_a_sentence(text, fault):
    assert any(fault in reported for reported in page_faults({("problem", "details"): text}))


@pytest.mark.parametrize(
    "text",
    [
        "In 2 of 5 seeds, 4.51 × 10¹² FLOPs of `max_lr=0.01` take 1 h 22 min.",
        "The vocabulary has 1,024 ids and 345,000 parameters.",
        "This rate is best.",
    ],
)
def test_good_sentences_have_no_fault(text):
    assert page_faults({("problem", "details"): text}) == []


def test_a_sentence_is_printed_once():
    blocks = dict.fromkeys(
        [("one", "caveat"), ("two", "caveat")], "The runs have one seed each, so nothing is resolved."
    )
    assert len(page_faults(blocks)) == 1


def test_every_template_belongs_to_a_problem():
    names = {path.name.removesuffix(".md.j2") for path in PROBLEM_TEMPLATES.glob("*.md.j2")}
    assert names <= {*PROBLEMS, "experiment", "_ablations", "_times"}


@pytest.mark.parametrize("name", ["ablations", "times", "macros"])
def test_an_experiment_may_have_the_name_of_a_part_of_the_page(name):
    assert Prose(name, Finding("missing")).block("question")


def test_filled_diamonds_are_explained_by_holm_where_ablations_are_corrected_only():
    effect = Effect("SiLU", "silu", 0.1, (0.05, 0.15), [0.1], 0, 3, "nats per token", 0.01, stable_up_to=0.1)
    in_nats, in_bits = replace(effect, is_significant=True), replace(effect, unit="bits per byte", stable_up_to=None)
    subtitles = [
        Prose("_ablations", Finding("answered", effects=[row])).block("effects_subtitle") for row in (in_nats, in_bits)
    ]
    assert ["Holm" in subtitle for subtitle in subtitles] == [True, False]
    assert ["own best rate" in subtitle for subtitle in subtitles] == [True, False], "without a sweep none is known"


def test_prose_of_a_study_has_no_fault(fabricated):
    assert lint(analyze_all(fabricated).problems, shared_names(fabricated.study)) == []


@pytest.mark.parametrize(
    "failed",
    [
        [
            "learning_rate/max_lr=0.001/seed0",
            "pre_norm_ablation/post_norm/seed1",
            "no_pos_emb/nope/seed0",
            "main_experiment/stories/seed0",
            "batch_size_experiment/batch_size=64_max_lr=sqrt_batch_size-1.0/seed0",
        ],
        [f"pre_norm_ablation/{name}/seed{seed}" for name in ("baseline", "post_norm") for seed in range(3)],
    ],
    ids=["some", "all of an experiment"],
)
def test_prose_of_failed_seeds_has_no_fault(fabricated, tmp_path, failed):
    shutil.copytree(fabricated.folder, tmp_path, dirs_exist_ok=True)
    results = Results(tmp_path, fabricated.study, fabricated.run_keys)
    ngrams = {1: 5.21, 2: 3.0, 3: 2.3, 4: 2.1, 5: 2.0}
    fabricate_yardsticks(results, "stories", {409_600: ngrams, 2_048_000: ngrams})
    for run in failed:
        change_summary(results, run, status="diverged", validation_loss=None, bits_per_byte=None)
    names = [*dict.fromkeys(run.partition("/")[0] for run in failed), "experiment_log"]
    problems = {name: analyze_problem(name, results) for name in names}
    assert lint(problems, shared_names(results.study)) == []


def test_prose_of_a_study_without_results_has_no_fault(tmp_path):
    results = fabricate_study(tmp_path, {"vocabulary": EXPERIMENTS["vocabulary"]})
    assert lint(analyze_all(results).problems, shared_names(results.study)) == []


def stored_findings() -> tuple[Findings, Study]:
    """Return the findings of the laptop study, which a change of its file makes stale, and the study."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    remedy = "run the laptop study, then python -m tests.support.laptop_findings results/laptop"
    assert stored["study"] == read_study_file(STUDY_FILE), remedy
    findings = Findings.model_validate_json(json.dumps(stored["findings"]), strict=True)
    plan = load_plan(stored["study"], "the stored study")
    assert set(findings.problems) == {*PROBLEMS, *plan.study.experiments}, remedy
    return findings, plan.study


def test_prose_of_the_stored_laptop_study_has_no_fault():
    findings, study = stored_findings()
    assert lint(findings.problems, shared_names(study)) == []


def test_numbers_of_the_front_page_are_in_the_cards_that_it_links_to():
    findings, study = stored_findings()
    for problem, finding in findings.problems.items():
        blocks = {name: set(numbers_in(text)) for name, text in render(problem, finding, shared_names(study)).items()}
        values = [metric.value for metric in finding.metrics.values() if is_number(metric.value)]
        values += [finding.facts.get("tokens_per_parameter", 0.0), *(100 * value for value in values)]
        forms = (format_nats, format_count, format_number, lambda value: format_number(value, 2))
        card = {number for value in values for form in forms for number in numbers_in(form(abs(value)))}
        card = card.union(*(blocks[name] for name in ("answer", "details", "caveat", "outcome")))
        assert blocks["finding"] | blocks["warning"] <= card, problem
