from dataclasses import dataclass, field

import pytest

from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.training import progress
from lmpipe.training.progress import PROGRESS, ProgressWriter, RunProgress, read_progress
from tests.support.run_documents import run_config


@dataclass
class State:
    step: int = 0
    wall_seconds: float = 0.0
    recent_losses: list[float] = field(default_factory=list)
    best_validation_loss: float | None = None

    @property
    def recent_loss(self):
        return sum(self.recent_losses) / len(self.recent_losses)


@pytest.fixture
def config():
    return run_config()


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is moved."""
    clock = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    return clock


def test_progress_is_written_at_once_and_then_every_few_seconds(tmp_path, config, clock):
    writer = ProgressWriter(tmp_path, config, planned_steps=50, tokens_per_step=128)
    writer.write(State())
    first = read_progress(tmp_path / PROGRESS)
    assert (first.step, first.training_loss, first.tokens_per_second) == (0, None, None)
    assert first.config == config
    clock["now"] += 1
    writer.write(State(3, 1.0, [4.0]))
    assert read_progress(tmp_path / PROGRESS) == first, "too early"
    clock["now"] += 2
    writer.write(State(9, 3.0, [4.0, 2.0], 3.5))
    second = read_progress(tmp_path / PROGRESS)
    assert (second.step, second.training_loss, second.best_validation_loss) == (9, 3.0, 3.5)
    assert second.tokens_per_second == 9 * 128 / 3
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS]


def test_the_speed_follows_the_last_writes(tmp_path, config, clock):
    writer = ProgressWriter(tmp_path, config, planned_steps=50, tokens_per_step=10)
    # A slow minute, and then many writes at ten steps a second.
    times = [(0, 0.0), (1, 60.0)] + [(1 + 20 * index, 60.0 + 2 * index) for index in range(1, 20)]
    for step, seconds in times:
        clock["now"] += 2
        writer.write(State(step, seconds, [1.0]))
    assert read_progress(tmp_path / PROGRESS).tokens_per_second == pytest.approx(100)


def test_unwritable_progress_file_stops_no_run(tmp_path, config):
    ProgressWriter(tmp_path / "none", config, 50, 128).write(State())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 3}', "\0"])
def test_damaged_progress_is_ignored(tmp_path, content):
    (tmp_path / PROGRESS).write_text(content, encoding="utf-8")
    assert read_progress(tmp_path / PROGRESS) is None
    assert read_progress(tmp_path / "none.json") is None


def test_liveness_of_a_process_on_another_machine_follows_its_file():
    elsewhere = ProcessIdentity.current().model_copy(update={"host": "another machine"})
    there = progress_of(elsewhere, updated_at=1000.0)
    assert there.is_running(1000.0 + progress.STALE_SECONDS / 2)
    assert not there.is_running(1000.0 + progress.STALE_SECONDS * 2)
    assert progress_of(ProcessIdentity.current(), updated_at=0.0).is_running(1e9), (
        "here, the process itself is looked up"
    )


def progress_of(process, updated_at):
    return RunProgress(
        config=run_config(),
        planned_steps=60,
        process=process,
        step=3,
        training_loss=None,
        best_validation_loss=None,
        tokens_per_second=None,
        updated_at=updated_at,
    )
