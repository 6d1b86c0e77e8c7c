import re

import pytest
import yaml

from lmpipe.analysis.finding import Finding, Metric, Reference
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.registry import complete_finding, problem_module
from lmpipe.analysis.problems.write_up_comparison import compare_with_references, stand_in_for
from lmpipe.analysis.results import Results
from lmpipe.planning.plan import load_plan
from lmpipe.study.editions import write_up
from tests.support.fake_results import fabricate_study, results_of
from tests.support.findings import ON_STORIES, code_spans, find, value

IDS = (
    "learning_rate",
    "batch_size_experiment",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
)


@pytest.mark.parametrize("problem", [*IDS, "experiment_log"])
def test_every_finding_is_answered_from_its_figures_and_fits_into_json(fabricated, problem):
    finding = find(problem, fabricated)
    module = problem_module(problem)
    assert finding.status == "answered"
    assert problem == module.ID
    assert module.QUESTION.endswith("?")
    assert all(sentence.endswith((".", "`")) for sentence in finding.sentences), finding.sentences
    assert not re.search(r"\b(None|nan|inf)\b", " ".join(finding.sentences))
    assert all(figure.source for figure in finding.metrics.values())
    assert all(figure.missing_reason for figure in finding.metrics.values() if figure.value is None)
    assert complete_finding(problem, module.TITLE, module.QUESTION, finding, fabricated).title


@pytest.mark.parametrize("problem", IDS)
def test_a_missing_experiment_is_absent_with_lines_that_the_study_accepts(tmp_path, problem):
    results = fabricate_study(tmp_path, {"learning_rate" if problem != "learning_rate" else "other": ON_STORIES})
    finding = find(problem, results)
    assert finding.status == "missing"
    (lines,) = code_spans(finding.sentences[0])
    study = results.study.model_dump(mode="json", exclude_none=True)
    experiments = study["experiments"] | yaml.safe_load(lines)
    plan = load_plan(study | {"experiments": experiments}, "the study with the lines added")
    assert len(plan.runs_by_experiment[problem]) >= 2


def test_the_log_holds_every_run_and_counts_shared_ones_once(fabricated):
    finding = find("experiment_log", fabricated)
    runs = fabricated.runs()
    assert len(finding.tables[0].rows) == value(finding, "runs") == len(runs)
    distinct = {repr((run.seed, run.config.model, run.config.training, run.config.tokens)): run for run in runs}
    assert value(finding, "distinct_runs") == len(distinct) < len(runs)
    assert value(finding, "total_tokens") == sum(run.summary.tokens for run in distinct.values())
    assert value(finding, "diverged_runs") == 2
    assert value(finding, "lowest_bits_per_byte_stories") == pytest.approx(0.7119, abs=1e-4)
    assert value(finding, "lowest_bits_per_byte_docs") > 1
    for plot in finding.plots:
        assert {"main_experiment on docs", "main_experiment on stories"} <= {line.label for line in plot.data.series}


def test_an_experiment_of_another_name_gets_a_section_of_the_general_kind(fabricated):
    title, question = generic_experiment.heading(fabricated, "vocabulary")
    finding = generic_experiment.analyze(fabricated, "vocabulary")
    assert (title, question) == ("Vocabulary", "How does the final loss depend on vocab_size?")
    assert all("of vocab_size=4096" in plot.alt for plot in finding.plots)


def test_a_general_experiment_without_a_grid_is_told_by_differences(tmp_path):
    runs = {"baseline": {}, "decayed": {"weight_decay": 0.5}, "wild": {"max_lr": 4.0}}
    results = fabricate_study(tmp_path, {"my_own": {"corpus": "stories", "seeds": [0, 1], "runs": runs}})
    finding = generic_experiment.analyze(results, "my_own")

    assert value(finding, "decayed_difference") == 0
    single = fabricate_study(tmp_path / "single", {"one": {"corpus": "stories"}})
    assert generic_experiment.analyze(single, "one").status == "answered"


def test_the_write_up_stands_beside_ours(fabricated):
    finding = find("learning_rate", fabricated)
    best, diverged = compare_with_references("learning_rate", finding, fabricated).rows[:2]
    assert (best.reference, best.value) == (0.0008, finding.metrics["best_max_lr"].value)
    assert (diverged.reference, diverged.value) == (0.2, finding.metrics["smallest_diverged_max_lr"].value)
    assert compare_with_references("unicode1", Finding("missing"), fabricated) == Reference()


def test_figures_of_the_studys_edition_need_a_metric_of_their_name(fabricated):
    finding = Finding("answered", metrics={"gpu_hours": Metric(1.5, "h")})
    for handout, hours in (("cs336-2025", 4), ("cs336-2026", 2), ("none", None)):
        study = fabricated.study.model_copy(update={"handout": handout})
        results = Results(fabricated.folder, study, fabricated.run_keys)
        rows = compare_with_references("learning_rate", finding, results).rows
        assert [(row.reference, row.value) for row in rows if row.unit == "h"] == ([(hours, 1.5)] if hours else [])


def test_a_figure_that_this_study_lacks_keeps_its_row_and_says_why(fabricated):
    (row, *_) = compare_with_references("train_bpe_tinystories", Finding("missing"), fabricated).rows
    assert row.value is None
    assert row.missing_reason


def test_the_original_text_stands_in_nobodys_place_however_it_is_split(tmp_path, fabricated):
    original = write_up().texts["TinyStories"].train_sha256
    text = {"url": "https://example.org/TinyStories.txt", "sha256": original}
    settings = {"source": "url", "tokenizer": {"vocab_size": 1024}, "stands_for": "TinyStories", "valid_fraction": 0.1}
    fabricate_study(tmp_path, {"learning_rate": ON_STORIES})
    whole = results_of(tmp_path, corpora={"stories": settings | {"files": [text]}}, experiments={"a": ON_STORIES})
    assert stand_in_for(whole, "stories") is None
    other = text | {"url": "https://example.org/other.txt"}
    parts = results_of(
        tmp_path, corpora={"stories": settings | {"files": [text, other]}}, experiments={"a": ON_STORIES}
    )
    assert stand_in_for(parts, "stories") == "TinyStories"


def test_original_text_is_not_a_stand_in(fabricated, monkeypatch):
    assert stand_in_for(fabricated, "stories") == "TinyStories"
    info = fabricated.corpora["stories"]
    train = info.splits.train.model_copy(update={"sha256": write_up().texts["TinyStories"].train_sha256})
    splits = info.splits.model_copy(update={"train": train})
    monkeypatch.setitem(fabricated.corpora, "stories", info.model_copy(update={"splits": splits}))
    assert stand_in_for(fabricated, "stories") is None
