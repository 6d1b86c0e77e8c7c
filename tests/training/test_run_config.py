from pathlib import Path

import pytest

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.io.files import write_json
from lmpipe.training import run_config
from lmpipe.training.run_config import resolve
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_text, tiny_tokenizer


@pytest.fixture
def study(tmp_path):
    return make_tiny_study(tmp_path)


def identity(study, settings=None):
    return resolve(settings or tiny_run(), study, None, study / "run").identity()


def test_names_do_not_make_another_run(study):
    named = tiny_run("other", study="other", experiment="other", overrides={"max_lr": 0.01})
    assert identity(study, named) == identity(study)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"max_lr": 0.02}, {"eval_tokens": 100}, {"model": {"norm": "post"}}])
def test_every_setting_makes_another_run(study, changed):
    assert identity(study, tiny_run(**changed)) != identity(study)


def test_other_code_makes_another_run(study, monkeypatch):
    before = identity(study)
    monkeypatch.setattr(run_config, "code_digest", lambda *names: {"model": "edited"})
    assert identity(study) != before


@pytest.mark.parametrize("split", ["train", "valid"])
def test_another_text_makes_another_run(study, split):
    before = identity(study)
    text, target = study / "another.txt", study / f"tokens/tiny/{split}.bin"
    Path(text).write_text(tiny_text(50, seed=7), encoding="utf-8")
    encode_file(text, tiny_tokenizer(), target, target.with_suffix(".json"), "tiny")
    assert identity(study) != before


def test_the_best_of_another_sweep_is_refused_with_the_remedy(study):
    best = {"experiment": "other\n", "run": "a", "max_lr": 0.01, "batch_size": 4}
    write_json(study / "best.json", best)
    settings = tiny_run(max_lr={"best_of": "sweep"})
    with pytest.raises(InputError, match=r"expected the best of 'sweep', found that of 'other\\n'; delete the file"):
        resolve(settings, study, study / "best.json", study / "run")
