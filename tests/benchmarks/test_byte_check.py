import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.byte_check import differences

RUN = "runs/sweep/a/seed0"
CHANGES = {
    "tokenizers/tiny/vocab.json": lambda path: path.write_text("{ }"),
    "tokens/tiny/train.bin": lambda path: path.write_bytes(b"\1\1"),
    f"{RUN}/metrics.csv": lambda path: path.write_text("step,wall_seconds,loss\n1,0.5,2.5\n"),
    f"{RUN}/model.safetensors": lambda path: save_file({"w": np.full(2, -0.0, np.float32)}, path),
    "samples/tiny.json": lambda path: path.write_text(json.dumps({"samples": [{"prompt": "a", "text": "c"}]})),
}


@pytest.fixture
def folders(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (*CHANGES, "tokenizers/tiny/merges.txt"):
        (first / path).parent.mkdir(parents=True, exist_ok=True)
        (first / path).write_text("")
    (first / RUN / "metrics.csv").write_text("step,wall_seconds,loss\n1,0.5,2.0\n")
    (first / "samples/tiny.json").write_text(json.dumps([{"prompt": "a", "text": "b", "seconds": 1.0}]))
    save_file({"w": np.zeros(2, np.float32)}, first / RUN / "model.safetensors")
    shutil.copytree(first, second)
    return first, second


def test_times_and_keys_may_differ(folders):
    (folders[1] / RUN / "metrics.csv").write_text("step,wall_seconds,loss\n1,9.5,2.0\n")
    (folders[1] / "samples/tiny.json").write_text(json.dumps({"samples": [{"prompt": "a", "text": "b"}]}))
    assert list(differences(*folders, [])) == []


@pytest.mark.parametrize("path", CHANGES)
def test_other_content_is_a_difference(folders, path):
    CHANGES[path](folders[1] / path)
    assert list(differences(*folders, [])) == [f"{path}: differs"]


def test_missing_and_renamed_files(folders):
    (folders[1] / "runs/sweep/a").rename(folders[1] / "runs/sweep/b")
    assert len(list(differences(*folders, []))) == 4
    assert list(differences(*folders, [("/b/", "/a/")])) == []
