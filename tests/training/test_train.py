import csv
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lmpipe.data.token_dataset import TokenDataset, batch_starts
from lmpipe.errors import InputError
from lmpipe.generation.inference import read_run
from lmpipe.model.accounting import account_adamw
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.experiments import BestOf
from lmpipe.study.settings import ModelConfig
from lmpipe.training.evaluation import evaluate, text_bytes_of
from lmpipe.training.loop import Course
from lmpipe.training.optimizer import AdamW
from lmpipe.training.run import train
from lmpipe.training.run_config import resolve_rate
from lmpipe.training.trainer import Counted, Trainer, evaluation_steps
from tests.support.tiny_study import MODEL, TRAINING, make_tiny_study, tiny_run, tiny_tokenizer

STEPS = 60


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A tiny study's folder, relative to the working directory as in the workflow."""
    monkeypatch.chdir(tmp_path)
    return make_tiny_study(Path("results/tiny"))


def rows_of(folder):
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_times(folder):
    return [{key: value for key, value in row.items() if key != "wall_seconds"} for row in rows_of(folder)]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def assert_same_result(first, second):
    assert without_times(first) == without_times(second)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    for key in (
        "status",
        "validation_loss",
        "bits_per_byte",
        "final_train_loss",
        "initial_loss",
        "diverged_step",
        "init_digests",
        "batches_sha256",
    ):
        assert summary_of(first)[key] == summary_of(second)[key]


def test_a_run_leaves_the_files_of_the_contract(study):
    output = study / "runs/experiment/baseline/seed0"
    started = time.perf_counter()
    train(tiny_run(), study, output)
    elapsed = time.perf_counter() - started
    config, summary, rows = json.loads((output / "config.json").read_text()), summary_of(output), rows_of(output)
    assert config["tokenizer"] == {
        "name": "tiny",
        "path": "../../../../tokenizers/tiny",
        "sha256": tiny_tokenizer().sha256,
    }
    assert config["tokens"]["train"]["path"] == "../../../../tokens/tiny/train.bin"
    assert config["model"]["vocab_size"] == 263
    assert config["training"]["max_lr"] == 0.01
    assert config["lr_source"] is None
    assert [int(row["step"]) for row in rows] == list(range(STEPS + 1))
    assert [int(row["step"]) for row in rows if row["validation_loss"]] == [0, 15, 30, 45, 60]
    assert rows[0]["train_loss"] == rows[0]["learning_rate"] == rows[0]["grad_norm"] == ""
    assert all(float(row["learning_rate"]) > 0 and float(row["grad_norm"]) > 0 for row in rows[1:])
    assert int(rows[-1]["tokens"]) == summary["tokens"] == STEPS * 64
    assert summary["status"] == "finished"
    assert summary["steps"] == summary["planned_steps"] == STEPS
    assert summary["initial_loss"] == pytest.approx(float(rows[1]["train_loss"]), abs=1e-6)
    latest = [float(row["train_loss"]) for row in rows[-20:]]
    assert summary["final_train_loss"] == pytest.approx(sum(latest) / 20, abs=1e-6)
    curve = [float(row["validation_loss"]) for row in rows if row["validation_loss"]]
    assert summary["best_validation_loss"] == pytest.approx(min(curve), abs=1e-6)
    assert summary["perplexity"] == pytest.approx(math.exp(summary["validation_loss"]))
    assert summary["validation_loss"] < summary["unigram_entropy"] < math.log(263)
    assert summary["parameters"] == sum(weight.numel() for weight in load_file(output / "model.safetensors").values())
    assert 0 < summary["train_seconds"] < elapsed
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["train_seconds"])
    assert (summary["threads"], summary["precision"], summary["num_resumes"]) == (1, "float32", 0)
    assert summary["peak_memory_bytes"] > 10**7
    assert "model" in summary["code"]


def test_runs_of_one_seed_are_paired_and_record_it(study):
    variants = {
        "pre": {},
        "none": {"norm": "none"},
        "nope": {"position_embedding": "none"},
        "silu": {"feed_forward": "silu"},
    }
    found = {}
    for name, model in variants.items():
        train(tiny_run(name, model=model, total_tokens=640), study, study / name)
        found[name] = summary_of(study / name)
    train(tiny_run("seed", seed=1), study, study / "seed")
    found["seed"] = summary_of(study / "seed")
    tokens = TokenDataset.open(study / "tokens/tiny/train.bin")
    digest = tokens.info.sha256
    for step in range(1, 11):
        starts = batch_starts(len(tokens.tokens), 0, step, 4, 16)
        digest = hashlib.sha256(digest.encode() + starts.tobytes()).hexdigest()
    assert {name: summary["batches_sha256"] == digest for name, summary in found.items()} == {
        name: name != "seed" for name in found
    }
    weights = found["pre"]["init_digests"]
    assert weights == found["none"]["init_digests"] == found["nope"]["init_digests"]
    assert len(weights) == 2 * 7 + 2
    silu = found["silu"]["init_digests"]
    assert silu == {name: one for name, one in weights.items() if not name.endswith("w3.weight")}, "widths are equal"
    assert not any(one == found["seed"]["init_digests"][name] for name, one in weights.items())
    embedding = TransformerLM(ModelConfig(vocab_size=263, **MODEL), seed=0).token_embeddings.weight
    expected = hashlib.sha256(embedding.detach().numpy().tobytes()).hexdigest()[:32]
    assert weights["token_embeddings.weight"] == {"parameters": 263 * 16, "sha256": expected}


def test_validation_loss_is_the_mean_over_every_token_of_the_split(study):
    train(tiny_run(total_tokens=640), study, study / "run")
    config, weights, tokenizer = read_run(study / "run")
    model = TransformerLM(config)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    tokens = TokenDataset.open(study / "tokens/tiny/valid.bin").tokens[:].astype("int64")
    nats, text_nats, text_bytes = [], [], 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = torch.from_numpy(tokens[start : start + 17])
            probabilities = model(window[None, :-1])[0].double().log_softmax(-1)
            for position, target in enumerate(window[1:].tolist()):
                nats.append(-probabilities[position, target].item())
                if target != 256:
                    text_nats.append(nats[-1])
                    text_bytes += len(tokenizer.token_bytes(target))
    summary = summary_of(study / "run")
    assert len(nats) == summary["validation_tokens"] == len(tokens) - 1
    assert summary["validation_bytes"] == text_bytes
    assert summary["validation_loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-6)
    assert summary["bits_per_byte"] == pytest.approx(sum(text_nats) / math.log(2) / text_bytes, rel=1e-6)


def test_bits_per_byte_by_hand():
    config = ModelConfig(context_length=4, d_model=4, d_ff=4, num_layers=1, num_heads=1, vocab_size=263)
    model = TransformerLM(config, seed=0)
    torch.nn.init.zeros_(model.lm_head.weight)
    # All 263 ids are equally likely; targets: "th" (2 bytes), end of text, " a" (2 bytes), "b" (1 byte).
    tokens = torch.tensor([97, 257, 256, 258, 98]).numpy()
    result = evaluate(model, tokens, text_bytes_of(tiny_tokenizer()), "float32", lambda targets: None)
    assert (result.validation_tokens, result.validation_bytes) == (4, 5)
    assert result.loss == pytest.approx(math.log(263))
    assert result.bits_per_byte == pytest.approx(3 * math.log2(263) / 5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_run(tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    first, second = make_tiny_study(Path("first")), make_tiny_study(Path("second"))
    settings = tiny_run(precision=precision, total_tokens=64 * 20)
    train(settings, first, first / "run")
    train(settings, second, second / "run")
    assert_same_result(first / "run", second / "run")
    train(settings.model_copy(update={"seed": 1}), first, first / "other")
    assert without_times(first / "run") != without_times(first / "other")


def test_equal_runs_of_two_experiments_are_trained_once(study, monkeypatch):
    updates = []
    step = AdamW.step
    monkeypatch.setattr(AdamW, "step", lambda self, rate: (updates.append(rate), step(self, rate)))
    train(tiny_run(), study, study / "first")
    assert len(updates) == STEPS
    other = tiny_run("other", experiment="second", overrides={"max_lr": 0.01})
    train(other, study, study / "second")
    assert len(updates) == STEPS
    assert_same_result(study / "first", study / "second")
    assert json.loads((study / "second/config.json").read_text())["experiment"] == "second"
    train(tiny_run(max_lr=0.02), study, study / "third")
    assert len(updates) == 2 * STEPS


class BrokenOffError(Exception):
    pass


def stop_at(monkeypatch, step, stop):
    """Let something happen in the middle of an update of a later call of train, once."""
    update = AdamW.step

    def stopping(self, rate):
        if self.updates == step - 1:
            monkeypatch.setattr(AdamW, "step", update)
            stop()
        update(self, rate)

    monkeypatch.setattr(AdamW, "step", stopping)


def break_off():
    raise BrokenOffError


class Argument:
    """A program's first argument, in its source text."""

    def __repr__(self):
        return "sys.argv[1]"


def program(run, results, output, **options):
    """The source text of a Python program that trains a run and prints if it was trained now."""
    planned = f"PlannedRun.model_validate_json({run.model_dump_json()!r})"
    imports = "from lmpipe.study.planned_run import PlannedRun; from lmpipe.training.run import train"
    return f"{imports}; print(train({planned}, {str(results)!r}, {output!r}, **{options}))"


def uninterrupted(settings):
    """The same run in a study of its own, never interrupted."""
    other = make_tiny_study(Path("results/uninterrupted"))
    train(settings, other, other / "run")
    return other / "run"


@pytest.mark.parametrize("damage", [False, True])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(study, monkeypatch, capfd, damage):
    expected = uninterrupted(tiny_run())
    stop_at(monkeypatch, 37, break_off)
    with pytest.raises(BrokenOffError):
        train(tiny_run(), study, study / "run", checkpoint_seconds=0)
    assert not (study / "run").exists()
    if damage:
        newest = max(study.glob("store/*/checkpoints/*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-50])
    train(tiny_run(), study, study / "run")
    assert f"going on after step {35 if damage else 36} of 60" in capfd.readouterr().err
    assert_same_result(study / "run", expected)
    assert summary_of(study / "run")["num_resumes"] == 1
    assert not list(study.glob("store/*/checkpoints"))


def test_sigterm_saves_first(study, monkeypatch):
    expected = uninterrupted(tiny_run())
    stop_at(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        train(tiny_run(), study, study / "run")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [path.name for path in study.glob("store/*/checkpoints/*")] == ["step-0000000007.safetensors"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(tiny_run(), study, study / "run")
    assert_same_result(study / "run", expected)


def test_a_checkpoint_of_other_settings_is_refused_by_its_name(study, monkeypatch):
    folders = []
    for rate in (0.02, 0.01):
        stop_at(monkeypatch, 7, break_off)
        with pytest.raises(BrokenOffError):
            train(tiny_run(max_lr=rate), study, study / "run", checkpoint_seconds=0)
        folders += [folder for folder in study.glob("store/*/checkpoints") if folder not in folders]
    other, own = folders
    foreign = own / "step-0000000050.safetensors"
    foreign.write_bytes(max(other.iterdir()).read_bytes())
    named = (
        f"{foreign}: expected a checkpoint of run {own.parent.name}, found one of run {other.parent.name}; delete it"
    )
    with pytest.raises(InputError, match=re.escape(named)):
        train(tiny_run(max_lr=0.01), study, study / "run")
    foreign.unlink()
    train(tiny_run(max_lr=0.01), study, study / "run")
    assert summary_of(study / "run")["num_resumes"] == 1


def test_a_killed_process_leaves_a_run_that_goes_on(study):
    settings = tiny_run(total_tokens=64 * 400)
    expected = uninterrupted(settings)
    process = subprocess.Popen(
        [sys.executable, "-c", program(settings, study, str(study / "run"), checkpoint_seconds=0)]
    )
    try:
        deadline = time.monotonic() + 60
        while not list(study.glob("store/*/checkpoints/*.safetensors")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (study / "run").exists()
    train(settings, study, study / "run")
    assert summary_of(study / "run")["num_resumes"] == 1
    assert_same_result(study / "run", expected)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_finite_weights(study, capfd):
    settings = tiny_run(model={"norm": "none"}, max_lr=1e25)
    train(settings, study, study / "run")
    summary, rows = summary_of(study / "run"), rows_of(study / "run")
    assert summary["status"] == "diverged"
    assert "not finite" in summary["reason"]
    assert summary["diverged_step"] == int(rows[-1]["step"]) == summary["steps"] + 1
    assert rows[-1]["train_loss"] == "" or rows[-1]["grad_norm"] == ""
    assert summary["validation_loss"] is None
    assert "nan" not in (study / "run/metrics.csv").read_text().lower()
    assert all(torch.isfinite(weight).all() for weight in load_file(study / "run/model.safetensors").values())


def test_a_loss_that_climbs_ends_the_run(study):
    train(tiny_run(max_lr=10.0), study, study / "run")
    summary, rows = summary_of(study / "run"), rows_of(study / "run")
    assert summary["status"] == "diverged"
    assert "nats above its start" in summary["reason"]
    assert summary["diverged_step"] == summary["steps"] == int(rows[-1]["step"]) < STEPS
    assert summary["steps"] >= 3 + 20
    assert summary["final_train_loss"] > summary["initial_loss"] + 0.5
    before = [float(row["train_loss"]) for row in rows[1:-1]][-20:]
    assert len(rows) == 3 + 20 + 1 or sum(before) / 20 <= summary["initial_loss"] + 0.5
    assert float(rows[-1]["validation_loss"]) > 5
    assert summary["validation_loss"] > 5


def test_divergence_interrupted_in_its_evaluation_is_not_told_twice(study, monkeypatch):
    settings = tiny_run(model={"norm": "none"}, max_lr=1e25)
    expected = uninterrupted(settings)
    evaluate_whole_split = Trainer.evaluate_whole_split

    def terminated(self, interruption):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_whole_split(self, interruption)

    monkeypatch.setattr(Trainer, "evaluate_whole_split", terminated)
    with pytest.raises(SystemExit):
        train(settings, study, study / "run")
    monkeypatch.setattr(Trainer, "evaluate_whole_split", evaluate_whole_split)
    train(settings, study, study / "run")
    assert_same_result(study / "run", expected)


def test_a_run_that_learns_nothing_is_stuck(study):
    train(tiny_run(max_lr=1e-9, total_tokens=64 * 10), study, study / "run")
    summary = summary_of(study / "run")
    assert summary["status"] == "not_learning"
    assert "unigram entropy" in summary["reason"]
    assert summary["validation_loss"] >= summary["unigram_entropy"]


ENTROPY = 5.0


def run_under_way(**counted):
    """What decides a run's status, without its model."""
    info = SimpleNamespace(info={"unigram_entropy": ENTROPY})
    return SimpleNamespace(counted=Counted(**counted), inputs=SimpleNamespace(train=info, warmup_steps=0))


@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (4.94, "finished"),
        (4.96, "not_learning"),
        (5.01, "not_learning"),
        (math.nan, "diverged"),
        (math.inf, "diverged"),
    ],
)
def test_a_finished_run_lies_well_below_the_unigram_entropy(loss, status):
    assert Trainer.status(run_under_way(), loss)[0] == status


def test_a_resume_under_another_setup_says_so(study, monkeypatch, capfd):
    stop_at(monkeypatch, 7, break_off)
    with pytest.raises(BrokenOffError):
        train(tiny_run(), study, study / "run", checkpoint_seconds=0, threads=1)
    train(tiny_run(), study, study / "run", threads=2)
    assert re.search(r"begun with .*'threads': 1.*, going on with .*'threads': 2", capfd.readouterr().err)


def test_bfloat16_is_another_run_with_nearly_the_same_loss(study):
    for precision in ("float32", "bfloat16"):
        train(tiny_run(precision=precision), study, study / precision)
    losses = [summary_of(study / precision)["validation_loss"] for precision in ("float32", "bfloat16")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_a_run_of_one_step_is_a_run(study):
    train(tiny_run(total_tokens=1, num_evaluations=10), study, study / "run")
    assert [row["step"] for row in rows_of(study / "run")] == ["0", "1"]
    assert rows_of(study / "run")[1]["validation_loss"]


BEST = {"experiment": "sweep", "run": "max_lr=0.02", "max_lr": 0.02, "batch_size": 16}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"best_of": "sweep"}, 0.02),
        ({"best_of": "sweep", "factor": 0.5}, 0.01),
        ({"best_of": "sweep", "scale": "sqrt_batch_size", "factor": 2}, 0.02 * 2 * math.sqrt(4 / 16)),
    ],
)
def test_a_rate_is_taken_from_the_best_of_a_sweep(study, wanted, expected):
    (study / "best.json").write_text(json.dumps(BEST))
    settings = tiny_run(max_lr=wanted, total_tokens=64, overrides={"max_lr": wanted, "batch_size": 4})
    train(settings, study, study / "run", best_path=study / "best.json")
    config = json.loads((study / "run/config.json").read_text())
    assert config["training"]["max_lr"] == config["overrides"]["max_lr"] == pytest.approx(expected)
    assert config["overrides"]["batch_size"] == 4
    source = {"best_run": "max_lr=0.02", "best_max_lr": 0.02, "best_batch_size": 16}
    assert config["lr_source"] == wanted | source


def test_a_rate_of_another_sweep_is_refused(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps(BEST))
    with pytest.raises(InputError, match="expected the best of 'other', found that of 'sweep'"):
        resolve_rate(BestOf(best_of="other"), 4, tmp_path / "best.json")
    with pytest.raises(InputError, match="--best"):
        resolve_rate(BestOf(best_of="sweep"), 4, None)


def test_wrong_inputs_are_refused(study):
    with pytest.raises(InputError, match=r"--device: expected one of .*cpu, found 'abacus'"):
        train(tiny_run(), study, study / "run", device="abacus")
    with pytest.raises(InputError, match="context_length: expected a training split of at least"):
        train(tiny_run(model={"context_length": 10**6, "position_embedding": "none"}), study, study / "run")
    path = study / "tokens/tiny/train.json"
    path.write_text(path.read_text().replace(tiny_tokenizer().sha256, "0" * 64))
    with pytest.raises(InputError, match=r"train.bin: expected ids of the tokenizer .*, found 000000000000"):
        train(tiny_run(), study, study / "run")


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"), [(100, 4, {25, 50, 75, 100}), (3, 10, {1, 2, 3}), (7, 1, {7}), (1, 3, {1})]
)
def test_evaluations_are_spread_evenly_and_include_the_last_step(steps, evaluations, expected):
    assert evaluation_steps(steps, evaluations) == expected


def test_settings_of_the_tests_make_the_steps_they_say():
    assert TRAINING["total_tokens"] // (TRAINING["batch_size"] * 16) == STEPS


def test_importing_train_is_cheap():
    program = (
        "import sys, lmpipe.training.run; print(sorted({'pandas', 'matplotlib', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("changes", [{}, {"max_lr": 10.0}, {"model": {"norm": "none"}, "max_lr": 1e25}])
def test_steps_that_are_fetched_later_give_the_same_bytes(study, monkeypatch, changes):
    settings = tiny_run(**changes)
    expected = uninterrupted(settings)
    monkeypatch.setattr(Course, "steps_at_once", lambda self: 16)
    train(settings, study, study / "run")
    assert_same_result(study / "run", expected)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_parts_of_a_batch_make_the_same_run_to_rounding(study, micro_batch_size):
    for name in ("auto", micro_batch_size):
        train(tiny_run(micro_batch_size=name, total_tokens=64 * 20), study, study / str(name))
    whole, parts = study / "auto", study / str(micro_batch_size)
    assert [summary_of(folder)["micro_batch_size"] for folder in (whole, parts)] == [4, micro_batch_size]
    assert_nearly_same_result(parts, whole)


def assert_nearly_same_result(first, second):
    for row, other in zip(without_times(first), without_times(second), strict=True):
        for key, value in row.items():
            assert (value == "") == (other[key] == "")
            assert value == "" or float(value) == pytest.approx(float(other[key]), rel=1e-4), (row["step"], key)


def test_parts_are_halved_until_they_fit(study, monkeypatch):
    accounted = account_adamw(ModelConfig(vocab_size=263, **MODEL), 0)
    room = accounted.fixed_bytes + 2.5 * accounted.bytes_per_sequence
    monkeypatch.setattr("lmpipe.training.micro_batching.free_memory_bytes", lambda device: room / 0.8)
    train(tiny_run(total_tokens=64), study, study / "run")
    assert summary_of(study / "run")["micro_batch_size"] == 2


def test_how_a_run_computes_is_decided_once(study, monkeypatch):
    expected = uninterrupted(tiny_run(micro_batch_size="auto"))
    stop_at(monkeypatch, 7, break_off)
    with pytest.raises(BrokenOffError):
        train(tiny_run(), study, study / "run", checkpoint_seconds=0)
    monkeypatch.setattr("lmpipe.training.micro_batching.free_memory_bytes", lambda device: 0)
    train(tiny_run(), study, study / "run")
    assert_same_result(study / "run", expected)


def test_two_processes_make_the_run_of_one_and_go_on_where_they_were_killed(study):
    settings = tiny_run(total_tokens=64 * 40)
    expected = uninterrupted(settings)
    train(settings, study, study / "run", processes=2)
    assert_nearly_same_result(study / "run", expected)
    assert summary_of(study / "run")["processes"] == 2
    killed = make_tiny_study(Path("results/killed"))
    code = program(settings, killed, str(killed / "run"), processes=2, checkpoint_seconds=0)
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 120
        while not list(killed.glob("store/*/checkpoints/*.safetensors")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    train(settings, killed, killed / "run", processes=2)
    assert summary_of(killed / "run")["num_resumes"] == 1
    assert_same_result(killed / "run", study / "run")


@pytest.mark.slow
def test_torchrun_makes_the_run_of_one_process_and_goes_on_where_it_was_killed(study):
    settings = tiny_run(total_tokens=64 * 40)
    expected = uninterrupted(settings)
    (study / "program.py").write_text(f"import sys; {program(settings, study, Argument(), checkpoint_seconds=0)}")

    def launched(output):
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(study / "program.py")]
        return [sys.executable, *command, str(output)]

    killed = subprocess.Popen(launched(study / "run"))
    deadline = time.monotonic() + 120
    while not list(study.glob("store/*/checkpoints/*.safetensors")) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # torchrun's processes do not end with it.
    for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
        process.kill()
    killed.wait()
    said = [subprocess.run(launched(study / name), capture_output=True, text=True) for name in ("run", "again")]
    # Only the first process returns: it trained the run, and then found it in the store.
    assert [(done.returncode, done.stdout.split()) for done in said] == [(0, ["True"]), (0, ["False"])]
    assert_nearly_same_result(study / "run", expected)
    assert summary_of(study / "run")["processes"] == 2 and summary_of(study / "run")["num_resumes"] == 1


def test_more_processes_than_sequences_are_refused(study):
    with pytest.raises(InputError, match="--processes or --gpus: expected at most 4"):
        train(tiny_run(), study, study / "run", processes=5)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(study, monkeypatch, error):
    def fail():
        raise error

    stop_at(monkeypatch, 3, fail)
    lower = r"micro_batch_size or batch_size \(now 4\), or model.context_length \(now 16\)"
    with pytest.raises(InputError, match=lower):
        train(tiny_run(), study, study / "run")


def test_a_run_that_is_given_gpus_has_one_process_where_there_are_none(study):
    train(tiny_run(total_tokens=64), study, study / "run", device="cpu", gpus=4)
    assert summary_of(study / "run")["processes"] == 1


def test_another_error_is_not_taken_for_lack_of_memory(study, monkeypatch):
    def fail():
        raise RuntimeError("something else")

    stop_at(monkeypatch, 3, fail)
    with pytest.raises(RuntimeError, match="something else"):
        train(tiny_run(), study, study / "run")


def test_a_run_in_the_store_is_copied_without_torch(study):
    train(tiny_run(total_tokens=64), study, study / "first")
    code = program(tiny_run("again", total_tokens=64), study, str(study / "second"))
    code += "; import sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
    assert_same_result(study / "first", study / "second")


def test_a_machine_without_a_compiler_trains_all_the_same(study, monkeypatch, capfd):
    expected = uninterrupted(tiny_run(compile="never", total_tokens=64 * 5))
    monkeypatch.setenv("CXX", "no-such-compiler")
    train(tiny_run(compile="always", total_tokens=64 * 5), study, study / "run")
    assert "not compiled: a C++ compiler (no-such-compiler) was not found" in capfd.readouterr().err
    assert_same_result(study / "run", expected)
    assert summary_of(study / "run")["compile"] is False
