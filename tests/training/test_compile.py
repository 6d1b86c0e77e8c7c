import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import compile, loop
from lmpipe.training.compile import MIN_COMPILE_FLOPS, UNFINISHED, compile_step, exclusive_cache, should_compile
from lmpipe.training.devices import set_deterministic
from lmpipe.training.run import train
from lmpipe.training.step import DivergenceMonitor, TrainingStep
from tests.support.forked import ForkedProcess
from tests.support.tiny_study import MODEL, TRAINING, make_tiny_study, tiny_run
from tests.support.training_runs import (
    StoppedError,
    assert_nearly_same_result,
    assert_same_result,
    stop,
    stop_at,
    summary_of,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("setting", "flops", "expected"),
    [
        ("always", 1, True),
        ("never", 1e30, False),
        ("auto", MIN_COMPILE_FLOPS["cpu"], True),
        ("auto", MIN_COMPILE_FLOPS["cpu"] * 0.99, False),
    ],
)
def test_only_long_runs_are_compiled_by_themselves(setting, flops, expected):
    assert should_compile(setting, flops, CPU) is expected


def test_a_device_that_cannot_compile_does_not():
    assert not should_compile("auto", 1e30, torch.device("mps"))


def test_what_a_killed_process_compiled_is_not_used(tmp_path):
    cache = tmp_path / "compiled"
    with exclusive_cache(cache):
        (cache / "code.so").write_text("whole")
    with exclusive_cache(cache):
        assert (cache / "code.so").exists()
    # A killed process removes nothing.
    (cache / UNFINISHED).touch()
    with exclusive_cache(cache):
        assert not (cache / "code.so").exists()
    assert not (cache / UNFINISHED).exists()


def test_all_is_compiled_before_the_first_step(tmp_path, monkeypatch):
    """For both shapes that the parts of a batch have, as they lie in memory; later it would count as training time."""
    compilations, before_training = [], []

    def compiled(function, dynamic):
        return torch_compile(
            function, dynamic=dynamic, backend=lambda graph, inputs: compilations.append(graph) or graph
        )

    def compiled_step(*arguments):
        assert compile_step(*arguments)
        before_training.append(len(compilations))
        return True

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compile, "missing_compiler", lambda device: None)
    monkeypatch.setattr(loop, "compile_step", compiled_step)
    results = make_tiny_study(tmp_path / "results")
    settings = tiny_run(compile="always", batch_size=5, micro_batch_size=3, total_tokens=80 * 4)
    train(settings, results, tmp_path / "run")
    assert before_training == [len(compilations)] == [2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(" " in sys.prefix, reason="torch calls the C++ compiler with unquoted paths of the environment")
def test_compiled_run_equals_eager_to_rounding_and_resumes_to_the_byte(tmp_path, monkeypatch):
    from torch._inductor import config

    # The compiler would try each set of vector instructions, for ten seconds.
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)
    monkeypatch.chdir(tmp_path)
    results = make_tiny_study(tmp_path / "results")
    settings = {
        kind: tiny_run(compile=kind, total_tokens=64 * 20, model={"num_layers": 1}) for kind in ("never", "always")
    }
    for kind in settings:
        train(settings[kind], results, results / kind)
    assert [summary_of(results / kind)["compile"] for kind in settings] == [False, True]
    assert_nearly_same_result(results / "always", results / "never")
    other = make_tiny_study(tmp_path / "other")
    stop_at(monkeypatch, 7, stop)
    with pytest.raises(StoppedError):
        train(settings["always"], other, other / "run", checkpoint_seconds=0)
    train(settings["always"], other, other / "run")
    assert_same_result(other / "run", results / "always")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_failed_trial_of_compiled_code_leaves_no_gradient(tmp_path, monkeypatch, capfd):
    """The first step would otherwise add to it."""
    model = TransformerLM(ModelConfig(vocab_size=50, **MODEL), seed=0)
    step = TrainingStep(model, TrainingSettings.model_validate(TRAINING), DivergenceMonitor(CPU, warmup_steps=0))
    eager = step.forward_hidden
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    gradients_at_failure = []

    def fail(gradient):
        gradients_at_failure.append(sum(parameter.grad is not None for parameter in model.parameters()))
        raise RuntimeError("backward failed")

    hook = model.token_embeddings.weight.register_hook(fail)
    assert not compile_step(step, 2, tmp_path / "compiled")
    hook.remove()
    assert gradients_at_failure[0] > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step.forward_hidden == eager
    assert "torch.compile is off: RuntimeError: backward failed" in capfd.readouterr().err


def test_embedding_is_not_compiled_for_a_gpu(monkeypatch):
    """Deterministic and compiled, its gradient would be a serial loop over equal ids."""
    model = TransformerLM(ModelConfig(vocab_size=50, **MODEL), seed=0)
    step = TrainingStep(model, TrainingSettings.model_validate(TRAINING), DivergenceMonitor(CPU, warmup_steps=0))
    compiled, token_ids = [], torch.arange(32).view(2, 16)
    expected = step.forward_hidden(token_ids)

    def compile_eagerly(function, dynamic):
        return lambda *inputs: compiled.append((function.__name__, inputs[0].dtype)) or function(*inputs)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    monkeypatch.setattr(TrainingStep, "device", torch.device("cuda:0"))
    monkeypatch.setattr(step, "dry_run", lambda size: None)
    assert compile.try_compiled(step, 2)
    assert torch.equal(step.forward_hidden(token_ids), expected)
    step.loss_chunk(*(torch.zeros(2, 2) for _ in range(2)), torch.zeros(2, dtype=torch.long), *torch.zeros(2, 2, 2))
    assert compiled == [("forward_blocks", torch.float32), ("cross_entropy_chunk", torch.float32)]


def compile_as_on_a_gpu(store, own):
    """Set up a GPU, with which torch names a folder of its own, and compile; check which folder is used."""
    torch.cuda.set_device = lambda device: None
    compile.missing_compiler = lambda device: None
    compile.try_compiled = lambda step, batch_size: True
    set_deterministic(1, torch.device("cuda:0"))
    for compile.USER_CACHE, expected in ((None, store), (str(own), own)):
        compile_step(SimpleNamespace(device=CPU), 1, store)
        assert os.environ[compile.CACHE_VARIABLE] == str(expected)


def test_compiled_code_is_kept_in_the_store_or_the_users_folder(tmp_path):
    assert ForkedProcess(compile_as_on_a_gpu, tmp_path / "store", tmp_path / "own").wait(60) == 0
