import json
import shutil
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lmpipe.errors import InputError
from lmpipe.generation.continuations import continue_prompts
from lmpipe.generation.inference import CompiledLM, load_run, read_run
from lmpipe.generation.sampling import (
    BATCH_SIZE,
    SampleRequest,
    generate,
    nucleus,
    sample_token,
    stream,
)
from lmpipe.io.files import read_json
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_tokenizer

CONFIG = ModelConfig(context_length=24, d_model=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=263)


def compiled(model: TransformerLM) -> CompiledLM:
    return CompiledLM(model.config, {name: weight.numpy() for name, weight in model.state_dict().items()})


@pytest.fixture(scope="module")
def reference():
    """Random weights, scaled so that the next token is neither certain nor anything."""
    model = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        model.lm_head.weight *= 6
    return model.eval()


@pytest.fixture(scope="module")
def model(reference):
    """Return the same model, ready to generate."""
    return compiled(reference)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a tiny study, with a trained run in it."""
    study = make_tiny_study(tmp_path_factory.mktemp("generate") / "results")
    train(tiny_run(), study, study / "run")
    return study


def greedy_by_hand(model, token_ids, count):
    token_ids = list(token_ids)
    with torch.no_grad():
        for _ in range(count):
            token_ids.append(int(model(torch.tensor([token_ids]))[0, -1].argmax()))
    return token_ids


def test_greedy_equals_a_loop_of_argmax_up_to_the_context_length(model, reference):
    tokenizer = tiny_tokenizer()
    prompt_ids = tokenizer.encode("the sun")
    [sample] = generate(model, tokenizer, ["the sun"], temperature=0, max_new_tokens=24 - len(prompt_ids) + 1)
    expected = greedy_by_hand(reference, prompt_ids, 24 - len(prompt_ids) + 1)[len(prompt_ids) :]
    assert not sample.reached_eos
    assert sample.new_ids == expected
    # The last token is predicted from a full context, but none was cut to add it to the text.
    assert sample.context_truncations == [24]


def test_a_full_context_is_cut_to_its_last_half(model, reference):
    tokenizer = tiny_tokenizer()
    [sample] = generate(model, tokenizer, ["the"], temperature=0, max_new_tokens=60)
    assert not sample.reached_eos
    assert sample.context_truncations == [24, 36, 48, 60]
    text = tokenizer.encode("the")
    context = list(text)
    for _ in range(60):
        with torch.no_grad():
            following = int(reference(torch.tensor([context]))[0, -1].argmax())
        text.append(following)
        context = [*(context[12:] if len(context) == 24 else context), following]
    assert tokenizer.encode("the") + sample.new_ids == text


def test_the_model_sees_the_end_of_a_long_prompt(model, reference):
    tokenizer = tiny_tokenizer()
    prompt = "a stone and the sea " * 10
    [sample] = generate(model, tokenizer, [prompt], temperature=0, max_new_tokens=1)
    assert sample.new_ids == greedy_by_hand(reference, tokenizer.encode(prompt)[-24:], 1)[-1:]


def test_samples_do_not_depend_on_their_neighbours_and_the_batch(model):
    tokenizer = tiny_tokenizer()
    prompts = ["a much longer prompt", "", *(f"the {number}" for number in range(BATCH_SIZE))]
    options = {"temperature": 0.9, "top_p": 0.8, "max_new_tokens": 10, "seed": 5}
    together = generate(model, tokenizer, prompts, **options)
    for prompt, sample in zip(prompts, together, strict=True):
        [alone] = generate(model, tokenizer, [prompt], **options)
        assert (alone.new_ids, alone.reached_eos) == (sample.new_ids, sample.reached_eos)


def test_the_same_seed_gives_the_same_text_and_equal_prompts_differ(model):
    (first, second), (again, _), (other, _) = (
        generate(model, tiny_tokenizer(), ["the", "the"], max_new_tokens=30, seed=seed) for seed in (1, 1, 2)
    )
    assert first.new_ids == again.new_ids
    assert first.new_ids != second.new_ids
    assert first.new_ids != other.new_ids


@pytest.mark.parametrize(
    ("top_p", "expected_ids"),
    [(0.4, [2]), (0.5, [2]), (0.6, [2, 0]), (0.85, [2, 0, 3]), (1e-9, [2]), (0.999, [2, 0, 3, 1])],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, expected_ids):
    weights = np.array([2.5, 0.5, 5.0, 2.0])
    mask = nucleus(weights, top_p)
    assert np.flatnonzero(mask).tolist() == sorted(expected_ids)
    assert mask[expected_ids].tolist() == weights[expected_ids].tolist()


@given(
    weights=st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any),
    top_p=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_the_nucleus_is_that_of_all_weights_sorted(weights, top_p):
    weights = np.array(weights, float)
    order = sorted(range(len(weights)), key=lambda token_id: -weights[token_id])
    expected, total = [], 0.0
    while total < top_p * weights.sum():
        expected.append(order[len(expected)])
        total += weights[expected[-1]]
    assert np.flatnonzero(nucleus(weights, top_p)).tolist() == sorted(expected)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    random = Random(0)
    draws = [sample_token(logits, 0.5, 0.95, random) for _ in range(8000)]
    shares = np.bincount(draws, minlength=4) / len(draws)
    expected = torch.softmax(torch.tensor(logits).double() / 0.5, -1).numpy()
    expected[[0, 3]] = 0
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.015)
    draws = [sample_token(logits, 2.0, 1.0, random) for _ in range(8000)]
    expected = torch.softmax(torch.tensor(logits).double() / 2, -1).numpy()
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / len(draws), expected, atol=0.015)


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-3])
def test_temperature_near_0_is_greedy_and_takes_the_first_of_equal_tokens(temperature):
    logits = np.array([0.0, 1.0, 7.0, -1.0], np.float32)
    assert sample_token(logits, temperature, 1.0, Random(0)) == sample_token(logits, temperature, 0.3, Random(0)) == 2
    assert sample_token(np.zeros(4, np.float32), 0, 1.0, Random(0)) == 0


def test_no_draw_is_beyond_the_last_token():
    class Highest(Random):
        def random(self):
            return 1 - 2**-53

    for seed in range(200):
        logits = np.random.default_rng(seed).normal(size=1000).astype(np.float32)
        logits[-5:] = -np.inf
        assert sample_token(logits, 1.0, 1.0, Highest()) == 994
        assert logits[sample_token(logits, 1.0, 0.9, Highest())] > -np.inf


def test_generation_stops_at_the_end_of_text(model):
    tokenizer = tiny_tokenizer()
    ending = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        ending.lm_head.weight.zero_()
        ending.lm_head.weight[256] = ending.forward_hidden(torch.tensor([tokenizer.encode("the")]))[0, -1] * 100
    [sample] = generate(compiled(ending), tokenizer, ["the"], temperature=0, max_new_tokens=10)
    assert sample.reached_eos
    assert sample.new_ids == []


@pytest.mark.parametrize("weight", ["lm_head.weight", "layers.1.ffn.w13.weight", "token_embeddings.weight"])
@pytest.mark.parametrize("value", [1e38, float("nan"), float("-inf")])
def test_logits_that_are_not_finite_still_give_a_token(weight, value):
    broken = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        broken.get_parameter(weight).fill_(value)
    model = compiled(broken)
    [sample] = generate(model, tiny_tokenizer(), ["the"], temperature=0.7, top_p=0.9, max_new_tokens=5)
    assert len(sample.new_ids) == 5 or sample.reached_eos


def test_a_stream_gives_the_text_of_the_sample_in_whole_characters(model):
    tokenizer = tiny_tokenizer()
    [sample] = generate(model, tokenizer, ["é"], temperature=1.0, max_new_tokens=50, seed=4)
    pieces = list(stream(model, tokenizer, SampleRequest("é", 1.0, 1.0, 4), 50))
    assert "".join(pieces) == tokenizer.decode(sample.new_ids)
    assert any(token_id > 127 for token_id in sample.new_ids)


def test_a_run_is_loaded_as_it_was_trained(run):
    config, weights, tokenizer = read_run(run / "run")
    assert tokenizer.sha256 == tiny_tokenizer().sha256
    trained = TransformerLM(config)
    trained.load_state_dict(load_file(run / "run/model.safetensors"))
    assert all(np.array_equal(weight, weights[name]) for name, weight in trained.state_dict().items())
    model, tokenizer = load_run(run / "run")
    [sample] = generate(model, tokenizer, ["the sun"], temperature=0, max_new_tokens=8)
    prompt_ids = tokenizer.encode("the sun")
    assert prompt_ids + sample.new_ids == greedy_by_hand(trained, prompt_ids, 8)
    assert set(tokenizer.decode(sample.new_ids)) <= set("abcdefghijklmnopqrstuvwxyz .\n")


def test_a_run_with_another_tokenizer_is_refused(run):
    config = read_json(run / "run/config.json")
    config["tokenizer"]["sha256"] = "0" * 64
    (run / "other").mkdir()
    (run / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="/tokenizers/tiny"):
        load_run(run / "other")


def test_a_study_may_be_moved_and_its_runs_used_from_anywhere(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "moved")
    monkeypatch.chdir("/")
    outputs = []
    for folder in (tmp_path / "moved/run", run / "run"):
        continue_prompts(folder, ["the sun"], 1, temperature=0.8, top_p=0.9, max_new_tokens=12, seed=0, output=None)
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1]
    assert outputs[0].out.startswith("the sun") and outputs[0].err == ""


def test_generate_command_streams_without_torch_numba_and_pandas(run):
    code = (
        "import sys; from lmpipe.cli.main import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'numba', 'pandas') if name in sys.modules], file=sys.stderr)"
    )
    arguments = ["generate", "--run", run / "run", "--prompt", "the sun", "--max-new-tokens", "12", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    model, tokenizer = load_run(run / "run")
    [sample] = generate(model, tokenizer, ["the sun"], temperature=1.0, top_p=1.0, max_new_tokens=12, seed=3)
    assert (done.stdout, done.stderr) == (f"the sun{tokenizer.decode(sample.new_ids)}\n", "[]\n")
