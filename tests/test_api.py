"""`import lmpipe`: studies and runs as a script or notebook reads them."""

import math
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import torch

import lmpipe
from lmpipe.generation.inference import load_run
from lmpipe.generation.sampling import generate
from lmpipe.planning.session import read_study
from tests.support.cli_cases import RUN_ID


@pytest.fixture
def results(whole_study):
    return whole_study / "results/tiny"


@pytest.fixture
def study(results):
    return lmpipe.open_study(results)


@pytest.fixture
def run(study):
    return study.run(RUN_ID)


def test_import_loads_no_library_and_every_name_exists():
    code = "import sys, lmpipe; print({'torch', 'numpy', 'pandas', 'pydantic', 'numba'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert all(getattr(lmpipe, name).__name__ == name for name in lmpipe.__all__)
    assert set(lmpipe.__all__) <= set(dir(lmpipe))
    with pytest.raises(AttributeError, match="no attribute 'open_studies'"):
        lmpipe.open_studies  # noqa: B018


def test_a_script_with_a_tokenizer_and_a_model_ends_silently(run):
    script = (
        f"import torch, lmpipe; run = lmpipe.Run({str(run.folder)!r}); text = run.generate('the', max_new_tokens=2)"
    )
    script += "; tokenizer = lmpipe.Tokenizer(run.tokenizer.vocab, run.tokenizer.merges); ids = tokenizer.encode(text)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_runs_are_the_table_that_analyze_writes(study, results):
    written = pd.read_parquet(results / "runs.parquet")
    pd.testing.assert_frame_equal(study.runs, written)
    assert len(written) == len(read_study(results)[0].runs)
    assert study.name == "tiny"


def test_runs_of_a_study_under_way_have_settings_and_a_state(results, tmp_path):
    partial = copytree(results, tmp_path / "results/tiny")
    for folder in ("runs/sweep/max_lr=0.02", "runs/tuned"):
        for path in (partial / folder).rglob("summary.json"):
            path.unlink()
    runs = lmpipe.open_study(partial).runs.set_index(["experiment", "run"])
    assert runs["status"].tolist() == ["finished", "waiting", "waiting"]
    assert runs["max_lr"].tolist()[:2] == [0.01, 0.02] and math.isnan(runs["max_lr"].iloc[2]), "best_of is not known"
    assert runs["vocab_size"].tolist() == [270] * 3
    assert runs["validation_loss"].isna().tolist() == [False, True, True]
    assert runs.dtypes.equals(lmpipe.open_study(results).runs.set_index(["experiment", "run"]).dtypes)


def test_a_run_is_found_by_its_path_in_the_table(study, run):
    assert study.run(study.runs["path"][0]).folder == run.folder
    assert study.run(run.folder).folder == run.folder
    relative = lmpipe.open_study(os.path.relpath(study.paths.root))
    assert relative.run(run.folder).folder.samefile(run.folder)
    assert study.run(Path("runs") / RUN_ID).summary == lmpipe.Run(str(run.folder)).summary == run.summary


def test_the_folder_of_a_study_file_is_no_results_folder(study, tmp_path):
    (tmp_path / "study.yaml").write_bytes(study.paths.study_file.read_bytes())
    (tmp_path / "results").mkdir()
    with pytest.raises(lmpipe.InputError, match="not a results folder"):
        lmpipe.open_study(tmp_path)


def test_metrics_and_findings_are_those_of_the_files(study, run, results):
    table = pd.read_csv(run.folder / "metrics.csv")
    pd.testing.assert_frame_equal(run.metrics, table)
    assert run.metrics["step"].iloc[-1] == run.summary.steps
    assert study.findings["learning_rate"].status in ("answered", "partial", "missing")


def test_loss_of_the_validation_text_is_that_of_the_training(run, results):
    text = results / "corpora/tiny/valid.txt"
    for source in (text, text.read_text(encoding="utf-8")):
        assert run.loss(source) == pytest.approx(run.summary.validation_loss, rel=1e-6)
        assert run.bits_per_byte(source) == pytest.approx(run.summary.bits_per_byte, rel=1e-6)
    assert run.evaluate(text).validation_tokens == run.summary.validation_tokens


def test_loss_is_the_cross_entropy_of_the_logits(run):
    ids = run.tokenizer.encode("the sun sat on a sto")
    assert 2 < len(ids) <= run.config.model.context_length
    logits = run.logits(ids[:-1])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
    assert run.loss(run.tokenizer.decode(ids)) == pytest.approx(expected, rel=1e-5)


def test_logits_are_those_of_the_module_for_lists_arrays_and_tensors(run):
    model, ids = run.model(), torch.tensor([[5, 6, 7], [8, 9, 10]])
    assert isinstance(model, torch.nn.Module) and not model.training
    with torch.no_grad():
        expected = model(ids)
    for same in (ids, ids.tolist(), ids.numpy().astype(np.uint16)):
        assert torch.equal(run.logits(same), expected)
    torch.testing.assert_close(run.logits(ids[1]), expected[1])
    assert run.model() is not run.model()


def test_generated_text_is_that_of_the_command(run):
    model, tokenizer = load_run(run.folder)
    settings = {"temperature": 0.7, "max_new_tokens": 12, "seed": 3}
    expected = [tokenizer.decode(sample.new_ids) for sample in generate(model, tokenizer, ["the", ""], **settings)]
    assert run.generate(["the", ""], **settings) == expected
    assert run.generate("the", **settings) == expected[0]
    assert run.generate("the", temperature=0, max_new_tokens=3) == run.generate("the", temperature=0, max_new_tokens=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda study, run: lmpipe.open_study("no such folder"),
        lambda study, run: lmpipe.open_study(5),
        lambda study, run: study.run("sweep/max_lr=0.03/seed0"),
        lambda study, run: study.run(None),
        lambda study, run: lmpipe.Run(study.paths.root),
        lambda study, run: lmpipe.Run(run.folder / "summary.json"),
        lambda study, run: run.loss(b"bytes"),
        lambda study, run: run.loss("a"),
        lambda study, run: run.loss(Path("no such file")),
        lambda study, run: run.loss(Path("records.csv")),
        lambda study, run: run.logits("text"),
        lambda study, run: run.logits([]),
        lambda study, run: run.logits([0.5]),
        lambda study, run: run.logits([run.config.model.vocab_size]),
        lambda study, run: run.logits([[-1]]),
        lambda study, run: run.logits([1] * 17),
        lambda study, run: run.generate(None),
        lambda study, run: run.generate("a", max_new_tokens=0),
        lambda study, run: run.generate("a", temperature=-1),
        lambda study, run: run.generate("a", top_p="0.9"),
        lambda study, run: run.generate("a", seed=0.5),
    ],
)
def test_wrong_arguments_are_one_clear_line(study, run, call):
    with pytest.raises(lmpipe.InputError) as caught:
        call(study, run)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_only_text_is_evaluated_and_without_its_mark(run, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The sun is up.")
    loss = run.loss(path)
    path.write_bytes(b"\xef\xbb\xbfThe sun is up.")
    assert run.loss(path) == loss
    path.write_bytes("The sun is up. ".encode("utf-16") * 20)
    with pytest.raises(lmpipe.InputError, match="UTF-16"):
        run.loss(path)
