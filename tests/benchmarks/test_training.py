import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import training
from benchmarks.gpt import GPT
from benchmarks.training import CONTESTANTS, SHAPES, Shape, contest, llama, table
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from tests.support.tiny_study import MODEL

TINY = Shape(ModelConfig(vocab_size=50, **MODEL), batch_size=2, precision="float32", threads=1)


def size_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_peers_have_as_many_weights(shape):
    with torch.device("meta"):
        model, gpt, peer = TransformerLM(shape.model), GPT(shape.model), llama(shape.model)
    assert size_of(peer) == size_of(model)
    position_embedding = shape.model.context_length * shape.model.d_model
    assert size_of(gpt) == size_of(model) + position_embedding


@pytest.mark.parametrize("name", ["lmpipe", "transformers", "nanoGPT", "ceiling"])
def test_contestant_prints_a_rate_for_each_turn(name, monkeypatch, capsys):
    monkeypatch.setattr(training.sys, "stdin", ["\n", "\n"])
    threads = torch.get_num_threads()
    contest(name, "eager", TINY, torch.device("cpu"), seconds=0)
    torch.set_num_threads(threads)
    facts, *rates = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(rates) == 2 and min(rates) > 0
    assert ("parameters" in facts) == (name != "ceiling")


def test_ratio_is_the_median_over_turns_with_the_fastest_peer():
    def rated(name, setting, rates):
        facts = {"parameters": 1000, "device": "NVIDIA H100"}
        median = sorted(rates)[len(rates) // 2]
        return SimpleNamespace(name=name, setting=setting, rates=rates, median=median, facts=facts)

    rates = {("lmpipe", "eager"): [20.0, 30.0, 80.0], ("nanoGPT", "compiled"): [10.0, 20.0, 40.0]}
    contestants = [rated(*pair, rates.get(pair, [1.0, 1.0, 1.0])) for pair in CONTESTANTS]
    lines = table(contestants, rated("ceiling", "matmul", [1e9] * 3), SHAPES["handout"])
    assert "lmpipe eager / nanoGPT compiled: 2.00 (1.50 to 2.00)" in lines
    flops = 3 * training.forward_flops(SHAPES["handout"].model) / 256
    assert f"{flops * 30 / 989e12:.1%}" in lines[1] and f"{flops * 30 / 1e9:.1%}" in lines[1]
