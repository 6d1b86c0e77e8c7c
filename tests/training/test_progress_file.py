import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from lmpipe.io.process_identity import is_there, this_process
from lmpipe.training import progress_file
from lmpipe.training.progress_file import PROGRESS_FILE, RunProgress, is_under_way, read_progress


@dataclass
class Counted:
    step: int = 0
    wall_seconds: float = 0.0
    latest_losses: list[float] = field(default_factory=list)
    best_validation_loss: float | None = None

    @property
    def latest_loss(self):
        return sum(self.latest_losses) / len(self.latest_losses)


@pytest.fixture
def config(fabricated):
    return fabricated.experiment("learning_rate").runs[0].config


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = {"now": 100.0}
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: clock["now"])
    return clock


def test_progress_is_told_at_once_and_then_every_few_seconds(tmp_path, config, clock):
    told = RunProgress(tmp_path, config, planned_steps=50, tokens_per_step=128)
    told.tell(Counted())
    first = read_progress(tmp_path / PROGRESS_FILE)
    assert (first["step"], first["training_loss"], first["tokens_per_second"]) == (0, None, None)
    assert first["config"] == config
    clock["now"] += 1
    told.tell(Counted(3, 1.0, [4.0]))
    assert read_progress(tmp_path / PROGRESS_FILE) == first, "too early"
    clock["now"] += 2
    told.tell(Counted(9, 3.0, [4.0, 2.0], 3.5))
    second = read_progress(tmp_path / PROGRESS_FILE)
    assert (second["step"], second["training_loss"], second["best_validation_loss"]) == (9, 3.0, 3.5)
    assert second["tokens_per_second"] == 9 * 128 / 3
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS_FILE]


def test_the_speed_follows_the_last_writes(tmp_path, config, clock):
    told = RunProgress(tmp_path, config, planned_steps=50, tokens_per_step=10)
    # A slow minute, and then many writes at ten steps a second.
    times = [(0, 0.0), (1, 60.0)] + [(1 + 20 * index, 60.0 + 2 * index) for index in range(1, 20)]
    for step, seconds in times:
        clock["now"] += 2
        told.tell(Counted(step, seconds, [1.0]))
    assert read_progress(tmp_path / PROGRESS_FILE)["tokens_per_second"] == pytest.approx(100)


def test_a_disk_that_cannot_take_it_stops_no_run(tmp_path, config):
    RunProgress(tmp_path / "none", config, 50, 128).tell(Counted())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 3}', "\0"])
def test_what_cannot_be_understood_tells_nothing(tmp_path, content):
    (tmp_path / PROGRESS_FILE).write_text(content, encoding="utf-8")
    assert read_progress(tmp_path / PROGRESS_FILE) is None
    assert read_progress(tmp_path / "none.json") is None


def test_this_process_is_there_and_an_ended_one_is_not():
    code = "import json, lmpipe.io.process_identity as p; print(json.dumps(p.this_process()), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        other = json.loads(child.stdout.readline())
        assert is_there(other) is True
        child.kill()
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.01)
        assert is_there(other) is False, "ended, though nobody has asked for its exit code yet"
    assert is_there(other) is False
    assert is_there(this_process()) is True
    assert is_there(this_process() | {"started": 1}) is False, "another process that got the same number"


def test_a_process_elsewhere_is_told_by_its_file():
    elsewhere = this_process() | {"host": "another machine"}
    assert is_there(elsewhere) is None
    told = {"process": elsewhere, "updated_at": 1000.0}
    assert is_under_way(told, 1000.0 + progress_file.SILENT_SECONDS / 2)
    assert not is_under_way(told, 1000.0 + progress_file.SILENT_SECONDS * 2)
    assert is_under_way({"process": this_process(), "updated_at": 0.0}, 1e9), "here, the process itself tells"
