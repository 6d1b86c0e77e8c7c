import hashlib
import json
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmpipe.data.token_dataset import TokenDataset, batch_starts, get_batch
from lmpipe.errors import InputError
from lmpipe.generation.inference import read_run
from lmpipe.model.accounting import batch_memory
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import loop, trainer
from lmpipe.training.loop import GPU_STEPS_PER_SYNC, DeviceTokens, TrainLoop, evaluation_steps
from lmpipe.training.optimizer import AdamW
from lmpipe.training.run import train
from lmpipe.training.trainer import Trainer, TrainState
from tests.support.tiny_study import MODEL, make_tiny_study, tiny_run, tiny_tokenizer
from tests.support.training_runs import (
    StoppedError,
    assert_nearly_same_result,
    assert_same_result,
    program,
    rows_of,
    stop,
    stop_at,
    summary_of,
    train_uninterrupted,
    without_times,
)

STEPS = 60
SHORT = tiny_run(total_tokens=64 * 12)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a tiny study's folder, relative to the working directory as in the workflow."""
    monkeypatch.chdir(tmp_path)
    return make_tiny_study(Path("results/tiny"))


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
    assert curve[-1] == pytest.approx(summary["validation_loss"], rel=1e-8), "the whole split"
    assert 0 < summary["validation_loss_se"] < summary["validation_loss"]
    assert summary["perplexity"] == pytest.approx(math.exp(summary["validation_loss"]))
    assert summary["validation_loss"] < summary["unigram_entropy"] < math.log(263)
    assert summary["parameters"] == sum(weight.numel() for weight in load_file(output / "model.safetensors").values())
    assert 0 < summary["train_seconds"] < elapsed
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["train_seconds"])
    assert (summary["threads"], summary["precision"], summary["num_resumes"]) == (1, "float32", 0)
    assert summary["peak_memory_bytes"] >= summary["memory_before_bytes"] > 10**7
    assert 0 < summary["compile_seconds"] < elapsed
    assert summary["detected_step"] is summary["divergence_step"] is None
    assert "model.transformer" in summary["code"]


def test_runs_of_one_seed_are_paired_and_record_it(study):
    variants = {"pre": {}, "none": {"model": {"norm": "none"}}, "silu": {"model": {"feed_forward": "silu"}}}
    summaries = {}
    for name, changes in (variants | {"seed": {"seed": 1}}).items():
        train(tiny_run(name, total_tokens=640, **changes), study, study / name)
        summaries[name] = summary_of(study / name)
    tokens = TokenDataset.open(study / "tokens/tiny/train.bin")
    digest = tokens.info.sha256
    for step in range(1, 11):
        starts = batch_starts(len(tokens.tokens), 0, step, 4, 16)
        digest = hashlib.sha256(digest.encode() + starts.tobytes()).hexdigest()
    assert all((summary["batches_sha256"] == digest) == (name != "seed") for name, summary in summaries.items())
    weights = summaries["pre"]["init_digests"]
    assert len(weights) == 2 * 7 + 2
    assert weights == summaries["none"]["init_digests"]
    shared = {name: digest for name, digest in weights.items() if not name.endswith("w3.weight")}
    assert summaries["silu"]["init_digests"] == shared, "widths are equal"
    assert not any(digest == summaries["seed"]["init_digests"][name] for name, digest in weights.items())
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


def test_the_same_seed_gives_the_same_bytes_and_another_seed_or_precision_another_run(study):
    other, losses = make_tiny_study(Path("results/other")), []
    for precision in ("float32", "bfloat16"):
        run = tiny_run(precision=precision, total_tokens=64 * 20)
        for results in (study, other):
            train(run, results, results / precision)
        assert_same_result(study / precision, other / precision)
        losses.append(summary_of(study / precision)["validation_loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=0.02)
    train(run.model_copy(update={"seed": 1}), study, study / "seed")
    assert without_times(study / "seed") != without_times(study / "bfloat16")


def test_equal_runs_of_two_experiments_are_trained_once(study, monkeypatch):
    updates = []
    step = AdamW.step
    monkeypatch.setattr(AdamW, "step", lambda self, lr, grad_scale: (updates.append(lr), step(self, lr, grad_scale)))
    train(SHORT, study, study / "first")
    assert len(updates) == 12
    other = tiny_run("other", experiment="second", overrides={"max_lr": 0.01}, total_tokens=64 * 12)
    train(other, study, study / "second")
    assert len(updates) == 12
    assert_same_result(study / "first", study / "second")
    assert json.loads((study / "second/config.json").read_text())["experiment"] == "second"
    train(tiny_run(max_lr=0.02, total_tokens=64 * 12), study, study / "third")
    assert len(updates) == 24


@pytest.mark.parametrize("damage", [False, True])
def test_interrupted_run_resumes_to_the_same_bytes(study, monkeypatch, capfd, damage):
    expected = train_uninterrupted(SHORT)
    stop_at(monkeypatch, 9, stop)
    with pytest.raises(StoppedError):
        train(SHORT, study, study / "run", checkpoint_seconds=0)
    assert not (study / "run").exists()
    if damage:
        newest = max(study.glob("store/*/checkpoints/*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-50])
    train(SHORT, study, study / "run")
    assert f"resuming from step {7 if damage else 8} of 12" in capfd.readouterr().err
    assert_same_result(study / "run", expected)
    assert summary_of(study / "run")["num_resumes"] == 1
    assert not list(study.glob("store/*/checkpoints"))


def test_sigterm_saves_first(study, monkeypatch):
    expected, handler = train_uninterrupted(SHORT), signal.getsignal(signal.SIGTERM)
    stop_at(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        train(SHORT, study, study / "run")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [path.name for path in study.glob("store/*/checkpoints/*")] == ["step-0000000007.safetensors"]
    assert signal.getsignal(signal.SIGTERM) == handler
    train(SHORT, study, study / "run")
    assert_same_result(study / "run", expected)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_finite_weights(study):
    train(tiny_run(model={"norm": "none"}, max_lr=1e25), study, study / "run")
    summary, rows = summary_of(study / "run"), rows_of(study / "run")
    assert summary["status"] == "diverged"
    assert summary["detected_step"] == int(rows[-1]["step"]) == summary["steps"] + 1
    assert rows[-1]["train_loss"] == "" or rows[-1]["grad_norm"] == ""
    assert summary["validation_loss"] is None
    assert "nan" not in (study / "run/metrics.csv").read_text().lower()
    assert all(torch.isfinite(weight).all() for weight in load_file(study / "run/model.safetensors").values())


def test_a_loss_that_climbs_ends_the_run(study):
    train(tiny_run(max_lr=10.0), study, study / "run")
    summary, rows = summary_of(study / "run"), rows_of(study / "run")
    assert summary["status"] == "diverged"
    assert summary["detected_step"] == summary["steps"] == int(rows[-1]["step"]) < STEPS
    assert summary["steps"] >= 3 + 20
    losses = [float(row["train_loss"]) for row in rows[1:]]
    assert summary["divergence_step"] == max(step for step, loss in enumerate(losses, 1) if loss <= losses[0]) < 23
    assert summary["final_train_loss"] > summary["initial_loss"] + 0.5
    before = [float(row["train_loss"]) for row in rows[1:-1]][-20:]
    assert len(rows) == 3 + 20 + 1 or sum(before) / 20 <= summary["initial_loss"] + 0.5
    assert float(rows[-1]["validation_loss"]) > 5
    assert summary["validation_loss"] > 5


def test_divergence_interrupted_in_its_evaluation_is_recorded_once(study, monkeypatch):
    settings = tiny_run(model={"norm": "none"}, max_lr=1e25)
    expected = train_uninterrupted(settings)
    evaluate_whole_split = Trainer.evaluate_whole_split

    def terminated(self, guard):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_whole_split(self, guard)

    monkeypatch.setattr(Trainer, "evaluate_whole_split", terminated)
    with pytest.raises(SystemExit):
        train(settings, study, study / "run")
    monkeypatch.setattr(Trainer, "evaluate_whole_split", evaluate_whole_split)
    train(settings, study, study / "run")
    assert_same_result(study / "run", expected)


def test_a_run_that_learns_nothing_is_not_learning(study):
    train(tiny_run(max_lr=1e-9, total_tokens=64 * 10), study, study / "run")
    summary = summary_of(study / "run")
    assert summary["status"] == "not_learning"
    assert summary["validation_loss"] >= summary["unigram_entropy"]


@pytest.mark.parametrize(
    ("loss", "status"),
    [(4.94, "finished"), (4.96, "not_learning"), (math.nan, "diverged"), (math.inf, "diverged")],
)
def test_a_finished_run_is_well_below_the_unigram_entropy(loss, status):
    info = SimpleNamespace(info=SimpleNamespace(unigram_entropy=5.0))
    ended = SimpleNamespace(state=TrainState(), inputs=SimpleNamespace(train=info))
    assert Trainer.status(ended, loss)[0] == status


def test_resume_under_another_setup_is_logged(study, monkeypatch, capfd):
    run = tiny_run(total_tokens=64 * 4)
    stop_at(monkeypatch, 3, stop)
    with pytest.raises(StoppedError):
        train(run, study, study / "run", checkpoint_seconds=0)
    monkeypatch.setattr(loop, "device_name", lambda device: "another processor")
    train(run, study, study / "run")
    assert re.search(r"resuming with .*another processor.*but the run started with", capfd.readouterr().err)


def test_resume_keeps_the_threads_of_the_first_start(study, monkeypatch):
    """The last digits depend on them."""
    run = tiny_run(total_tokens=64 * 4, model={"d_model": 256, "d_ff": 512, "num_layers": 1})
    other = make_tiny_study(Path("results/other"))
    train(run, other, other / "run", threads=2)
    stop_at(monkeypatch, 3, stop)
    with pytest.raises(StoppedError):
        train(run, study, study / "run", checkpoint_seconds=0, threads=2)
    train(run, study, study / "run", threads=1)
    assert summary_of(study / "run")["threads"] == torch.get_num_threads() == 2
    assert_same_result(study / "run", other / "run")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_run_with_several_threads_repeats_to_the_byte(study, precision):
    run = tiny_run(precision=precision, total_tokens=64 * 3, model={"d_model": 256, "d_ff": 512, "num_layers": 1})
    other = make_tiny_study(Path("results/other"))
    for results in (study, other):
        train(run, results, results / "run", threads=3)
    assert summary_of(study / "run")["threads"] == 3
    assert_same_result(study / "run", other / "run")


def test_a_run_of_one_step_is_a_run(study):
    train(tiny_run(total_tokens=1, num_evaluations=10), study, study / "run")
    assert [row["step"] for row in rows_of(study / "run")] == ["0", "1"]
    assert rows_of(study / "run")[1]["validation_loss"]


def test_warm_up_has_a_floor_of_steps():
    for floor, steps in ((0, 1), (10, 10), (99, 25)):
        settings = TrainingSettings(total_tokens=25 * 64, batch_size=4, max_lr=0.01, min_warmup_steps=floor)
        assert settings.warmup_steps(context_length=16) == steps


def test_wrong_inputs_are_refused(study):
    with pytest.raises(InputError, match=r"--device: abacus"):
        train(tiny_run(), study, study / "run", device="abacus")
    with pytest.raises(InputError, match="context_length: is 1000000"):
        train(tiny_run(model={"context_length": 10**6, "position_embedding": "none"}), study, study / "run")
    path = study / "tokens/tiny/train.json"
    path.write_text(path.read_text().replace(tiny_tokenizer().sha256, "0" * 64))
    with pytest.raises(InputError, match=r"train.bin: was encoded with tokenizer 000000000000"):
        train(tiny_run(), study, study / "run")


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"), [(100, 4, {25, 50, 75, 100}), (3, 10, {1, 2, 3}), (7, 1, {7}), (1, 3, {1})]
)
def test_evaluations_are_spread_evenly_and_include_the_last_step(steps, evaluations, expected):
    assert evaluation_steps(steps, evaluations) == expected


@pytest.mark.parametrize(
    "changes",
    [{"total_tokens": 64 * 20}, {"max_lr": 10.0}, {"model": {"norm": "none"}, "max_lr": 1e25}],
    ids=["to the end", "risen loss", "not finite"],
)
def test_steps_that_are_fetched_later_give_the_same_bytes(study, monkeypatch, changes):
    settings = tiny_run(**changes)
    expected = train_uninterrupted(settings)
    monkeypatch.setattr(loop, "CPU_STEPS_PER_SYNC", 16)
    train(settings, study, study / "run")
    assert_same_result(study / "run", expected)


@pytest.mark.parametrize(
    ("step_seconds", "steps"), [(math.inf, 1), (5.0, 1), (0.3, 3), (0.1, 10), (1e-4, GPU_STEPS_PER_SYNC)]
)
def test_a_gpu_takes_the_steps_of_a_second_at_once(step_seconds, steps):
    """A signal waits for them; of the first step, the time is not known."""
    gpu, cpu = (SimpleNamespace(device=torch.device(name)) for name in ("cuda:0", "cpu"))
    assert TrainLoop.steps_per_sync(gpu, step_seconds) == steps
    assert TrainLoop.steps_per_sync(cpu, step_seconds) == 1


@pytest.mark.parametrize(("dtype", "vocab_size"), [("<u2", 1 << 16), ("<u4", 1 << 32)])
def test_tokens_on_a_device_make_the_batches_of_the_host(monkeypatch, dtype, vocab_size):
    """Also ids that are negative in torch's signed types; they are copied in pieces."""
    monkeypatch.setattr(loop, "CHUNK_TOKENS", 7)
    tokens = np.random.default_rng(0).integers(vocab_size, size=100).astype(dtype)
    starts = torch.from_numpy(batch_starts(len(tokens), 3, 5, 4, 8))
    batch = DeviceTokens(tokens, torch.device("cpu")).get_batch(starts, 8)
    for actual, expected in zip(batch, get_batch(tokens, 3, 5, 4, 8), strict=True):
        assert torch.equal(actual, torch.from_numpy(expected))


def test_saving_takes_little_of_the_time(study, monkeypatch):
    """Where a checkpoint takes long, the next one comes later."""
    now, saved = [0.0], []

    def save(trainer):
        saved.append(trainer.state.step)
        now[0] += 0.09

    def train_chunk(trainer, count, bar):
        now[0] += 1.0
        return run_chunk(trainer, count, bar)

    run_chunk = Trainer.train_chunk
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))
    monkeypatch.setattr(Trainer, "save", save)
    monkeypatch.setattr(Trainer, "train_chunk", train_chunk)
    train(SHORT, study, study / "run", checkpoint_seconds=2)
    assert saved == [2, 7, 12]


def test_parts_of_a_batch_make_the_same_run_to_rounding(study):
    for name in ("auto", 3):
        train(tiny_run(micro_batch_size=name, total_tokens=64 * 10), study, study / str(name))
    assert [summary_of(study / name)["micro_batch_size"] for name in ("auto", "3")] == [4, 3]
    assert_nearly_same_result(study / "3", study / "auto")


def test_parts_are_halved_until_they_fit(study, monkeypatch):
    accounted = batch_memory(ModelConfig(vocab_size=263, **MODEL), 0)
    room = accounted.fixed_bytes + 2.5 * accounted.bytes_per_sequence
    monkeypatch.setattr("lmpipe.training.step.free_memory_bytes", lambda device: room / 0.8)
    train(tiny_run(total_tokens=64), study, study / "run")
    assert summary_of(study / "run")["micro_batch_size"] == 2


def test_how_a_run_computes_is_decided_once(study, monkeypatch):
    run = tiny_run(total_tokens=64 * 8, micro_batch_size="auto")
    expected = train_uninterrupted(run)
    stop_at(monkeypatch, 5, stop)
    with pytest.raises(StoppedError):
        train(run, study, study / "run", checkpoint_seconds=0)
    monkeypatch.setattr("lmpipe.training.step.free_memory_bytes", lambda device: 0)
    train(run, study, study / "run")
    assert_same_result(study / "run", expected)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), InputError, r"lower .* \(now 4\), or .* \(now 16\)"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 bytes."), InputError, "lower"),
        (MemoryError(), InputError, "lower"),
        (RuntimeError("something else"), RuntimeError, "something else"),
    ],
    ids=["GPU", "CPU", "Python", "another error"],
)
def test_out_of_memory_names_what_to_lower(study, monkeypatch, error, expected, message):
    def fail():
        raise error

    stop_at(monkeypatch, 3, fail)
    with pytest.raises(expected, match=message):
        train(tiny_run(), study, study / "run")


def test_a_run_in_the_store_is_copied_without_torch(study):
    train(tiny_run(total_tokens=64), study, study / "first")
    command = program(tiny_run("again", total_tokens=64), study, study / "second")
    command[-1] += "; import sys; print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "set()"]
    assert_same_result(study / "first", study / "second")


def test_a_machine_without_a_compiler_trains_all_the_same(study, monkeypatch, capfd):
    expected = train_uninterrupted(tiny_run(compile="never", total_tokens=64 * 5))
    monkeypatch.setenv("CXX", "no-such-compiler")
    train(tiny_run(compile="always", total_tokens=64 * 5), study, study / "run")
    assert "torch.compile is off: no C++ compiler found (looked for no-such-compiler)" in capfd.readouterr().err
    assert_same_result(study / "run", expected)
    assert summary_of(study / "run")["compile"] is False
