import pytest

from lmpipe.training import progress
from lmpipe.training.progress import PROGRESS, ProgressWriter, read_progress
from lmpipe.training.trainer import TrainState
from tests.support.run_documents import run_config


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is moved."""
    clock = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    return clock


def test_progress_is_written_at_once_and_then_every_few_seconds(tmp_path, clock):
    writer = ProgressWriter(tmp_path, run_config())
    writer.write(TrainState())
    first = read_progress(tmp_path / PROGRESS)
    assert (first.step, first.training_loss, first.tokens_per_second) == (0, None, None)
    assert first.config == run_config()
    clock["now"] += 1
    writer.write(TrainState(3, 1.0, recent_losses=[4.0]))
    assert read_progress(tmp_path / PROGRESS) == first, "too early"
    clock["now"] += 2
    writer.write(TrainState(9, 3.0, recent_losses=[4.0, 2.0], best_validation_loss=3.5))
    second = read_progress(tmp_path / PROGRESS)
    assert (second.step, second.training_loss, second.best_validation_loss) == (9, 3.0, 3.5)
    assert second.tokens_per_second == 9 * run_config().tokens_per_step / 3
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS]


def test_the_speed_follows_the_last_writes(tmp_path, clock):
    writer = ProgressWriter(tmp_path, run_config())
    # A slow minute, and then many writes at ten steps a second.
    times = [(0, 0.0), (1, 60.0)] + [(1 + 20 * index, 60.0 + 2 * index) for index in range(1, 20)]
    for step, seconds in times:
        clock["now"] += 2
        writer.write(TrainState(step, seconds))
    assert read_progress(tmp_path / PROGRESS).tokens_per_second == pytest.approx(10 * run_config().tokens_per_step)


def test_unwritable_progress_file_stops_no_run(tmp_path):
    ProgressWriter(tmp_path / "none", run_config()).write(TrainState())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["", '{"step": 3}'])
def test_damaged_progress_is_ignored(tmp_path, content):
    (tmp_path / PROGRESS).write_text(content, encoding="utf-8")
    assert read_progress(tmp_path / PROGRESS) is None
    assert read_progress(tmp_path / "none.json") is None


def test_liveness_of_a_process_on_another_machine_follows_its_file(tmp_path):
    ProgressWriter(tmp_path, run_config()).write(TrainState())
    here = read_progress(tmp_path / PROGRESS)
    elsewhere = here.process.model_copy(update={"host": "another machine"})
    there = here.model_copy(update={"process": elsewhere, "updated_at": 1000.0})
    assert there.is_running(1000.0 + progress.STALE_SECONDS / 2)
    assert not there.is_running(1000.0 + progress.STALE_SECONDS * 2)
    # Here, the process itself is looked up.
    assert here.model_copy(update={"updated_at": 0.0}).is_running(1e9)
