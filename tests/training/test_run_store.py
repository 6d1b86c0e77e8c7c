import shutil
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmpipe.errors import InputError
from lmpipe.training.run import StoredRun, clear
from lmpipe.training.run_documents import RunConfig, RunSummary
from tests.support.run_documents import run_config, run_summary


def finished(results, digest="abc"):
    stored = StoredRun.of(results, digest)
    (stored.folder / "metrics.csv").write_text("step\n1\n")
    save_file({"weight": np.zeros(2, np.float32)}, stored.folder / "model.safetensors")
    stored.checkpoints.mkdir()
    (stored.checkpoints / "step-1").write_bytes(b"")
    stored.finish(run_summary())
    return stored


def test_a_run_is_finished_only_when_all_is_there(tmp_path):
    stored = StoredRun.of(tmp_path, "abc")
    assert not stored.is_finished
    stored = finished(tmp_path)
    assert stored.is_finished
    assert not stored.checkpoints.exists()
    (stored.folder / "model.safetensors").unlink()
    assert not stored.is_finished


def test_published_files_are_copies(tmp_path):
    stored = finished(tmp_path)
    for name in ("first", "second"):
        stored.publish(tmp_path / "runs" / name, run_config(run=name))
    (tmp_path / "runs/first/summary.json").write_text("spoilt")
    assert RunSummary.read(tmp_path / "runs/second/summary.json") == run_summary()
    assert RunSummary.read(stored.folder / "summary.json") == run_summary()
    assert RunConfig.read(tmp_path / "runs/second/config.json") == run_config(run="second")
    names = {path.name for path in (tmp_path / "runs/second").iterdir()}
    assert names == {"config.json", "metrics.csv", "model.safetensors", "summary.json"}


def test_checkpoints_that_a_killed_process_left_behind_its_summary_go_with_the_next_copy(tmp_path):
    stored = finished(tmp_path)
    stored.checkpoints.mkdir()
    (stored.checkpoints / "step-1").write_bytes(b"")
    stored.publish(tmp_path / "runs/first", run_config())
    assert not stored.checkpoints.exists()


def test_clear_empties_the_store_and_keeps_what_was_published(tmp_path):
    finished(tmp_path).publish(tmp_path / "runs/first", run_config())
    clear(tmp_path)
    assert list((tmp_path / "store").iterdir()) == []
    assert (tmp_path / "runs/first/summary.json").exists()
    clear(tmp_path)
    with pytest.raises(InputError, match="no run store"):
        clear(tmp_path / "nothing")


def test_waiting_run_logs_it_and_locks_its_folder_even_if_it_was_removed(tmp_path, capfd):
    stored = finished(tmp_path)
    acquired = threading.Event()

    def second():
        with stored.locked():
            acquired.set()
            done.wait(10)

    done, waiting = threading.Event(), threading.Thread(target=second)
    with stored.locked():
        waiting.start()
        while "waiting" not in capfd.readouterr().err:
            time.sleep(0.01)
        with pytest.raises(InputError, match="in progress"):
            clear(tmp_path)
        assert stored.is_finished and not acquired.is_set()
        shutil.rmtree(stored.folder)
    assert acquired.wait(10)
    with pytest.raises(InputError, match="in progress"):
        clear(tmp_path)
    done.set()
    waiting.join(10)
