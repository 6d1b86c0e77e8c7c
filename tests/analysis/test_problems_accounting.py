"""The problems about Unicode, accounting and the SGD toy, on small results folders, with and without their inputs."""

import csv
import json
from dataclasses import asdict

import pytest

from lmpipe.analysis.problems.learning_rate_tuning import step_factor
from lmpipe.analysis.problems.registry import ANALYSES
from lmpipe.analysis.problems.transformer_accounting import longer_context, size_effect
from lmpipe.analysis.results import Results
from lmpipe.model.accounting import ModelAccounting, expected_counts
from lmpipe.model.torch_counts import account_model
from lmpipe.study.editions import read_edition
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.unicode_demo import demonstrate_unicode
from tests.support.fake_results import fabricate_measurements, results_of
from tests.support.findings import find
from tests.support.prose import render

EDITION, NEXT_EDITION = read_edition("cs336-2025"), read_edition("cs336-2026")
QUESTION = EDITION.adamw
OWN = {"vocab_size": 300, "context_length": 64, "num_layers": 2, "d_model": 16, "num_heads": 2, "d_ff": 48}
SMALL = {"vocab_size": 500, "context_length": 64, "num_layers": 2, "d_model": 32, "num_heads": 2, "d_ff": 96}
LONG = SMALL | {"context_length": 640}
PROBLEMS = ("unicode1", "unicode2", "transformer_accounting", "adamw_accounting", "learning_rate_tuning")


@pytest.fixture(scope="module", autouse=True)
def _count_by_formula():
    """Spare the seconds in which torch counts large models (tests/model/test_accounting.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmpipe.model.torch_counts.count_with_torch", expected_counts)
        yield


def edition_account(year) -> ModelAccounting:
    edition = {2025: EDITION, 2026: NEXT_EDITION}[year]
    return account_model(f"gpt2_xl_{year}", edition.models[f"gpt2_xl_{year}"], edition.adamw)


def make_results(folder, models, years=(), question=QUESTION) -> Results:
    """Return a study with accounts of some models, of the own model, and of GPT-2 XL as editions define it."""
    accounts = [account_model(name, ModelConfig(**model), question) for name, model in {**models, "study": OWN}.items()]
    for account in [*accounts, *map(edition_account, years)]:
        account.write(folder / "accounting" / f"{account.name}.json")
    own = {name: model for name, model in models.items() if name not in EDITION.models}
    return results_of(folder, accounting={"models": own, "device_memory_gb": 80.0}, handout="cs336-2025")


def write_toy(folder, losses):
    with open(folder / "learning_rate_tuning.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["learning_rate", "step", "loss"])
        for rate, curve in losses.items():
            writer.writerows([rate, step, loss] for step, loss in enumerate(curve))


def toy_curve(rate, steps=10, start=25.0):
    curve = [start]
    for step in range(steps):
        curve.append(curve[-1] * (1 - 2 * rate / (100 * (step + 1) ** 0.5)) ** 2)
    return curve


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full study")
    results = make_results(folder, {"small": SMALL, "long": LONG}, years=[2025])
    fabricate_measurements(folder)
    demonstrate_unicode().write(folder / "unicode.json")
    write_toy(folder, {rate: toy_curve(rate) for rate in (1.0, 10.0, 100.0, 1000.0)})
    return results


@pytest.mark.parametrize("problem", PROBLEMS)
def test_findings_are_complete(full, problem):
    finding = find(problem, full)
    assert finding.status == "answered"
    assert finding.metrics
    blocks = render(problem, finding)
    assert blocks["question"].endswith("?")
    assert all(blocks[f"{figure.id}_title"] for figure in finding.figures)
    for metric in finding.metrics.values():
        assert metric.source
        assert any(full.folder.glob(metric.source)) or (metric.value is None and metric.missing_reason)
    assert json.loads(json.dumps(asdict(finding), allow_nan=False))["status"] == "answered"
    assert "\0" not in json.dumps(asdict(finding)["texts"], ensure_ascii=False)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_missing_inputs_come_with_a_remedy(tmp_path, problem):
    finding = ANALYSES[problem](results_of(tmp_path, accounting={"models": {"small": SMALL}}))
    assert finding.status == "missing"
    assert "snakemake" in finding.reason


def test_transformer_accounting_gives_the_figures_of_gpt2_xl(full):
    finding = find("transformer_accounting", full)
    assert finding.metrics["gpt2_xl_2025_parameters"].value == 2_127_057_600
    assert finding.metrics["gpt2_xl_2025_bytes"].value == 8_508_230_400
    assert finding.metrics["gpt2_xl_2025_forward_flops"].value == 4_513_336_524_800
    assert (finding.facts["main"], finding.facts["main_parameters"]) == ("GPT-2 XL", 2_127_057_600)
    shares, parameters = (figure.data for figure in finding.figures)
    assert [sum(values) for values in zip(*shares.groups.values(), strict=True)] == pytest.approx([100] * 4)
    assert 2_127_057_600 in parameters.groups["parameters"]


def test_models_that_differ_in_context_or_in_size_alone_are_compared():
    wide = SMALL | {"d_model": 64, "d_ff": 192}
    models = {"small": SMALL, "wide": wide, "long": LONG}
    small, wide, long = (account_model(name, ModelConfig(**model), QUESTION) for name, model in models.items())
    longer = longer_context([small, wide, long], small)
    assert (longer["context_factor"], longer["scores_share"]) == (10, long.shares["attention_scores"])
    assert longer_context([small, wide], small) is None
    labels = {name: name for name in models}
    size = size_effect([small, wide, long], wide, labels)
    assert (size["small"], size["large"], size["component"]) == ("small", "wide", "feed-forward")
    assert size["to"] == wide.shares["feed_forward"]
    assert size_effect([small, long], small, labels) is None


@pytest.mark.parametrize("problem", ["transformer_accounting", "adamw_accounting"])
def test_a_study_without_its_editions_model_is_partial(tmp_path, problem):
    finding = ANALYSES[problem](make_results(tmp_path, {"gpt2_xl": SMALL}))
    assert finding.status == "partial"
    assert render(problem, finding)["answer"]


def test_shapes_of_the_other_edition_are_in_the_table_but_not_in_the_figure(tmp_path):
    results = make_results(tmp_path, {}, years=[2025, 2026])
    finding = find("transformer_accounting", results)
    assert [row[0] for row in finding.tables[0].rows] == ["GPT-2 XL", "GPT-2 XL (2026)", "this study's model"]
    assert finding.figures[0].data.labels == ["GPT-2 XL", "this study's model"]
    assert finding.metrics["gpt2_xl_2026_parameters"].value == 1_640_452_800
    adamw = find("adamw_accounting", results)
    assert [row[0] for row in adamw.tables[0].rows[::2]] == ["GPT-2 XL", "GPT-2 XL (2026)"]


def test_a_study_without_named_models_accounts_for_its_own(tmp_path):
    results = make_results(tmp_path, {})
    finding = find("transformer_accounting", results)
    parameters = ModelAccounting.read(results.paths.accounting("study")).parameters
    assert finding.metrics["study_parameters"].value == parameters.total
    assert find("adamw_accounting", results).metrics["largest_batch_size"].value > 1000


def test_adamw_accounting_answers_the_oracles(full):
    finding = find("adamw_accounting", full)
    values = {name: metric.value for name, metric in finding.metrics.items()}
    assert (values["largest_batch_size"], values["largest_batch_size_swiglu"]) == (3, 2)
    assert (round(values["days"]), round(values["days_swiglu"])) == (5115, 6584)
    assert values["optimizer_flops"] == 14 * (2_127_057_600 - 48 * 1600 * 6400)
    assert values["flops_6nd_per_step_swiglu"] == 6 * 2_127_057_600 * 1024 * 1024
    # Without attention scores. GPT-2 XL: float32, S = 1,024, D = 1,600, F = 6,400, L = 48, V = 50,257.
    by_sequence = 4 * 1024 * (48 * (8 * 1600 + 2 + 2 * 6400) + 1600 + 1 + 1600 + 2)
    assert values["saved_bytes_per_sequence"] == by_sequence
    assert values["largest_batch_by_saved_bytes"] == (80_000_000_000 - 26_168_601_600) // by_sequence


def test_adamw_accounting_shows_every_step(full):
    tables = find("adamw_accounting", full).tables
    derivation, _ = (table for table in tables if table.caption.startswith("Derivation: memory and time"))
    lines = {row[0]: row[1:] for row in derivation.rows}
    assert {"P", "A", "a", "b", "C_forward", "C_adamw", "C_step", "days"} <= set(lines)
    assert lines["A"][1:3] == ["8·L·S·D + 2·L·H·S² + 2·L·S·F + S·D + 2·S·V", 15_517_753_344 // 4]
    assert lines["B_max"][1:3] == ["max(0, (M - b) ÷ a)", 3]
    assert (lines["M"][2], lines["b"][2], lines["a"][2]) == (80_000_000_000, 26_168_601_600, 15_517_753_344)


def test_adamw_accounting_answers_the_question_of_its_edition(full, tmp_path):
    finding = find("adamw_accounting", full)
    assert (finding.facts["largest_batch"], finding.facts["unit"], round(finding.facts["time"])) == (3, "days", 5115)
    edition_account(2026).write(tmp_path / "accounting/gpt2_xl_2026.json")
    finding = find("adamw_accounting", results_of(tmp_path))
    assert (finding.facts["unit"], round(finding.facts["time"])) == ("hours", 4850)
    metrics = finding.metrics
    assert finding.facts["largest_batch"] == metrics["largest_batch_size_swiglu"].value
    total = sum(values[0] for values in finding.figures[-1].data.groups.values()) * 1e9
    assert total == pytest.approx(metrics["fixed_bytes_swiglu"].value + metrics["bytes_per_sequence_swiglu"].value)


def test_model_too_large_for_the_device_is_reported(tmp_path):
    small_device = QUESTION.model_copy(update={"device_memory_gb": 1e-4})
    finding = find("adamw_accounting", make_results(tmp_path, {QUESTION.model: SMALL}, question=small_device))
    assert finding.facts["largest_batch"] == 0
    assert render("adamw_accounting", finding)["answer"].startswith("Not one")


def test_learning_rate_tuning_judges_each_rate(full):
    finding = find("learning_rate_tuning", full)
    assert finding.metrics["final_loss_10"].value == toy_curve(10.0)[-1]
    assert (finding.facts["falling"], finding.facts["diverging"]) == (["1", "10", "100"], ["1,000"])
    assert finding.facts["is_explained"]
    assert (finding.facts["best"], finding.facts["jump_step"], finding.facts["jump_factor"]) == (100, 3, 0)
    assert step_factor(100.0, 3) == 0
    assert finding.figures[0].data.lines[1].y == toy_curve(10.0)


def test_learning_rate_tuning_bears_overflow_and_explains_nothing_it_does_not_see(tmp_path):
    write_toy(tmp_path, {1000.0: [25.0, 1e30, "inf"], 2000.0: [25.0, 1e35, ""]})
    finding = find("learning_rate_tuning", results_of(tmp_path))
    assert (finding.status, finding.facts["falling"], finding.facts["is_explained"]) == ("answered", [], False)
    assert finding.metrics["final_loss_1000"].value is None
    assert finding.metrics["final_loss_1000"].missing_reason == "it overflowed"
    assert render("learning_rate_tuning", finding)["answer"]


def test_unicode2_names_the_scripts_for_which_utf16_is_shorter(full):
    finding = find("unicode2", full)
    assert finding.facts["shorter_in_utf16"] == ["Hindi", "Chinese", "Japanese", "Korean"]
    assert finding.metrics["utf16_bytes_per_character"].value == 2
    assert finding.metrics["wrong_decoder_input"].value == "schläft"
    assert finding.metrics["two_byte_sequences_valid"].value == 18_304
    assert finding.metrics["two_byte_sequences_invalid"].value == 47_232
    english = [values[0] for values in finding.figures[0].data.groups.values()]
    assert english == [1, 2, 4]


def test_unicode1_shows_code_with_its_real_output(full):
    finding = find("unicode1", full)
    assert ">>> chr(0)\n'\\x00'\n>>> print(chr(0))\n␀\n" in finding.texts[0].text
    assert finding.facts["code_points"] == ["U+0000"]
    assert finding.metrics["joined_length"].value == 7
