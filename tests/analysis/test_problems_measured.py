"""The accounting beside made-up measurements, whose errors are round numbers."""

import pytest

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.measured import flops_and_time, memory
from lmpipe.analysis.results import Results
from lmpipe.model.accounting import count_parameters
from lmpipe.model.activation_memory import step_bytes
from lmpipe.study.settings import ModelConfig
from tests.support.fake_results import MODEL, change_summary, fabricate_measurements, fabricate_study

CONFIG = ModelConfig(vocab_size=1024, **MODEL)
MEMORY = {"memory_before_bytes": 300_000_000, "peak_memory_bytes": 400_000_000}
SWEEP = {"learning_rate": {"corpus": "stories", "batch_size": 8, "sweep": {"max_lr": [0.003, 0.01]}}}


@pytest.fixture
def results(tmp_path) -> Results:
    results = fabricate_study(tmp_path, SWEEP)
    fabricate_measurements(tmp_path)
    for rate in (0.003, 0.01):
        total = count_parameters(CONFIG).total
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", parameters=total, **MEMORY)
    return results


def metric_values(measurement: Finding) -> dict[str, float]:
    return {name: metric.value for name, metric in measurement.metrics.items()}


def test_flops_and_time_have_the_errors_of_their_predictions(results):
    measurement = flops_and_time(results)
    values = metric_values(measurement)
    # 6 million FLOPs predicted, 5 counted; 1,024 tokens of them in 20 ms are a quarter of 10**9 FLOP/s.
    assert values["step_flops_error"] == pytest.approx(20)
    assert (values["utilization"], values["step_seconds"]) == (pytest.approx(0.25), pytest.approx(0.02))
    assert values["assumed_step_seconds"] == pytest.approx(0.01)
    assert values["largest_parameters_error"] == 0
    assert [row[3] for row in measurement.tables[0].rows] == pytest.approx([0, 0, 20])


@pytest.mark.parametrize(("speeds", "mean"), [((20_000.0, 30_000.0), 25_000), ((0.0, 0.0), None)])
def test_without_a_step_timed_alone_the_speed_is_that_of_the_runs(results, speeds, mean):
    (results.folder / "batch_sizes.json").unlink()
    for rate, speed in zip((0.003, 0.01), speeds, strict=True):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", tokens_per_second=speed)
    metrics = flops_and_time(results).metrics
    assert metrics["tokens_per_second"].value == mean
    assert (metrics["utilization"].value is None) == bool(metrics["utilization"].missing_reason) == (mean is None)


def test_activations_are_set_beside_both_lists_and_the_gaps_are_named(results):
    measurement = memory(results)
    values = metric_values(measurement)
    assert values["predicted_activations_error"] == pytest.approx(-10)
    assert values["handout_activations_error"] == pytest.approx(20)
    rows = {row[0]: row[1:] for row in measurement.tables[0].rows}
    assert rows["activations: loss"] == [1200, 600, 600, 100, 0]
    assert rows["activations: RMSNorms"] == [0, 300, 400, -100, -25]
    assert rows["gradients"] == [4000, 4000, 4000, 0, 0]
    assert sum(row[3] for row in measurement.tables[1].rows) == 900 - 1200
    assert measurement.facts["overcounted"] == {"bytes": 600}
    (figure,) = measurement.figures
    assert figure.data.groups["activations"] == [1200e-6, 900e-6, 1000e-6]
    assert figure.data.groups["AdamW's moments"] == [8000e-6] * 3


@pytest.mark.parametrize("other_bytes", [0, 2_000_000_000])
def test_memory_is_compared_with_what_a_run_added_to_its_process(results, other_bytes):
    larger = {name: size + other_bytes for name, size in MEMORY.items()}
    for rate in (0.003, 0.01):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", **larger)
    measurement = memory(results)
    predicted = step_bytes(CONFIG, "float32", 8) + 2 * 4 * 2048 * 1024
    (row,) = measurement.tables[2].rows
    assert row[1:5] == [2, 8, predicted, 100_000_000]
    assert metric_values(measurement)["largest_run_memory_error"] == pytest.approx(100 * (predicted / 100_000_000 - 1))
    assert measurement.facts["worst_batch_size"] == 8


def test_runs_of_another_machine_are_not_compared_with_this_ones_prediction(results):
    for rate in (0.003, 0.01):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", device="another")
    measurement = memory(results)
    assert measurement.metrics["largest_run_memory_error"].missing_reason == "no run on the device that was measured"
    assert len(measurement.tables) == 2


def test_study_without_measurements_is_partial(tmp_path):
    results = fabricate_study(tmp_path, SWEEP)
    for measurement in (flops_and_time(results), memory(results)):
        assert all(metric.value is None and metric.missing_reason for metric in measurement.metrics.values())
