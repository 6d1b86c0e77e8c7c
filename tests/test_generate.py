import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_study import make_tiny_study, tiny_settings, tiny_tokenizer

from lmpipe import InputError
from lmpipe.files import read_json
from lmpipe.generate import (
    choose_token,
    generate,
    load_run,
    next_logits,
    nucleus,
    sample_grid,
    stream,
    stream_to_stdout,
    text_of,
    write_samples,
)
from lmpipe.model import TransformerLM
from lmpipe.settings import ModelConfig
from lmpipe.train import train

CONFIG = ModelConfig(context_length=24, d_model=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=263)


@pytest.fixture(scope="module")
def model():
    """Random weights, scaled so that the next token is neither certain nor anything."""
    model = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        model.lm_head.weight *= 6
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny study, with a trained run in it."""
    study = make_tiny_study(tmp_path_factory.mktemp("generate") / "results")
    train(tiny_settings(), study, study / "run")
    return study


def greedy_by_hand(model, token_ids, count):
    token_ids = list(token_ids)
    with torch.no_grad():
        for _ in range(count):
            token_ids.append(int(model(torch.tensor([token_ids]))[0, -1].argmax()))
    return token_ids


def test_greedy_equals_a_loop_of_argmax_up_to_the_context_length(model):
    tokenizer = tiny_tokenizer()
    prompt_ids = tokenizer.encode("the sun")
    [sample] = generate(model, tokenizer, ["the sun"], temperature=0, max_new_tokens=24 - len(prompt_ids) + 1)
    expected = greedy_by_hand(model, prompt_ids, 24 - len(prompt_ids) + 1)[len(prompt_ids) :]
    assert not sample.ended
    assert sample.new_ids == expected
    # The last token is predicted from a full context, but none was cut to add it to the text.
    assert sample.context_cuts == [24]


def test_beyond_the_context_length_its_last_half_is_read_anew(model):
    tokenizer = tiny_tokenizer()
    [sample] = generate(model, tokenizer, ["the"], temperature=0, max_new_tokens=60)
    assert not sample.ended
    assert sample.context_cuts == [24, 36, 48, 60]
    text = tokenizer.encode("the")
    seen = list(text)
    for _ in range(60):
        with torch.no_grad():
            following = int(model(torch.tensor([seen]))[0, -1].argmax())
        text.append(following)
        seen = [*(seen[12:] if len(seen) == 24 else seen), following]
    assert tokenizer.encode("the") + sample.new_ids == text


def test_of_a_long_prompt_the_model_sees_the_end(model):
    tokenizer = tiny_tokenizer()
    prompt = "a stone and the sea " * 10
    [sample] = generate(model, tokenizer, [prompt], temperature=0, max_new_tokens=1)
    assert sample.new_ids == greedy_by_hand(model, tokenizer.encode(prompt)[-24:], 1)[-1:]


def test_samples_do_not_depend_on_their_neighbours(model):
    tokenizer = tiny_tokenizer()
    prompts = ["the", "a much longer prompt", "", "sun"]
    together = generate(model, tokenizer, prompts, temperature=0.9, top_p=0.8, max_new_tokens=40, seed=5)
    for prompt, sample in zip(prompts, together, strict=True):
        [alone] = generate(model, tokenizer, [prompt], temperature=0.9, top_p=0.8, max_new_tokens=40, seed=5)
        assert (alone.new_ids, alone.ended) == (sample.new_ids, sample.ended)


def test_the_same_seed_gives_the_same_text_and_equal_prompts_differ(model):
    tokenizer = tiny_tokenizer()
    first, second = generate(model, tokenizer, ["the", "the"], max_new_tokens=30, seed=1)
    again, _ = generate(model, tokenizer, ["the", "the"], max_new_tokens=30, seed=1)
    other, _ = generate(model, tokenizer, ["the", "the"], max_new_tokens=30, seed=2)
    assert first.new_ids == again.new_ids
    assert first.new_ids != second.new_ids
    assert first.new_ids != other.new_ids


def test_padding_does_not_change_logits(model):
    contexts = [[1, 2, 3], [4], list(range(20))]
    together = next_logits(model, contexts)
    for context, logits in zip(contexts, together, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([context]))[0, -1].double()
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, [2]), (0.5, [2]), (0.6, [2, 0]), (0.85, [2, 0, 3]), (1e-9, [2]), (0.999, [2, 0, 3, 1])]
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    probabilities = torch.tensor([0.25, 0.05, 0.5, 0.2], dtype=torch.float64)
    found = nucleus(probabilities, top_p)
    assert found.nonzero().flatten().tolist() == sorted(kept)
    assert torch.equal(found[kept], probabilities[kept])


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([choose_token(logits, 0.5, 0.95, generator) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / 4000
    expected = torch.softmax(logits / 0.5, -1)
    expected[[0, 3]] = 0
    torch.testing.assert_close(shares.double(), expected / expected.sum(), atol=0.02, rtol=0)
    assert choose_token(logits, 0, 1.0, generator) == 2


def test_generation_stops_at_the_end_of_text(model):
    tokenizer = tiny_tokenizer()
    ending = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        ending.lm_head.weight.zero_()
        ending.lm_head.weight[256] = ending.hidden(torch.tensor([tokenizer.encode("the")]))[0, -1] * 100
    [sample] = generate(ending, tokenizer, ["the"], temperature=0, max_new_tokens=10)
    assert sample.ended
    assert sample.new_ids == []


def test_logits_that_are_not_finite_still_give_a_token(model):
    broken = TransformerLM(CONFIG, seed=3)
    with torch.no_grad():
        broken.lm_head.weight.fill_(1e38)
    [sample] = generate(broken, tiny_tokenizer(), ["the"], temperature=0.7, top_p=0.9, max_new_tokens=5)
    assert len(sample.new_ids) == 5 or sample.ended


def test_a_stream_gives_the_text_of_the_sample_in_whole_characters(model):
    tokenizer = tiny_tokenizer()
    [sample] = generate(model, tokenizer, ["é"], temperature=1.0, max_new_tokens=50, seed=4)
    pieces = list(stream(model, tokenizer, "é", temperature=1.0, max_new_tokens=50, seed=4))
    assert "".join(pieces) == text_of(tokenizer, sample.new_ids)
    assert any(token_id > 127 for token_id in sample.new_ids)


def test_a_run_is_loaded_as_it_was_trained(run):
    model, tokenizer = load_run(run / "run")
    assert tokenizer.sha256 == tiny_tokenizer().sha256
    saved = load_file(run / "run/model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())
    [sample] = generate(model, tokenizer, ["the sun"], temperature=0, max_new_tokens=8)
    assert set(text_of(tokenizer, sample.new_ids)) <= set("abcdefghijklmnopqrstuvwxyz .\n")


def test_a_run_with_another_tokenizer_is_refused(run):
    config = read_json(run / "run/config.json")
    config["tokenizer"]["sha256"] = "0" * 64
    (run / "other").mkdir()
    (run / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"/tokenizers/tiny: expected the tokenizer 000000000000"):
        load_run(run / "other")


def test_a_study_may_be_moved_and_its_runs_used_from_anywhere(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "moved")
    monkeypatch.chdir("/")
    stream_to_stdout(tmp_path / "moved/run", "the", temperature=0, top_p=1, max_new_tokens=4, seed=0)
    moved = capsys.readouterr().out
    stream_to_stdout(run / "run", "the", temperature=0, top_p=1, max_new_tokens=4, seed=0)
    assert moved == capsys.readouterr().out


def test_streaming_writes_the_text_alone(run, capsys):
    stream_to_stdout(run / "run", "the sun", temperature=0.8, top_p=0.9, max_new_tokens=12, seed=0)
    first = capsys.readouterr()
    stream_to_stdout(run / "run", "the sun", temperature=0.8, top_p=0.9, max_new_tokens=12, seed=0)
    assert first.out == capsys.readouterr().out
    assert first.out.startswith("the sun")
    assert first.err == ""


@pytest.mark.parametrize(
    ("temperature", "top_p", "option"), [(-1, 1, "temperature"), (1, 0, "top-p"), (1, 1.5, "top-p")]
)
def test_impossible_settings_are_refused(run, temperature, top_p, option):
    with pytest.raises(InputError, match=f"--{option}: expected"):
        stream_to_stdout(run / "run", "the", temperature, top_p, 1, 0)


SETTINGS = {
    "corpus": "tiny",
    "run": "experiment/baseline",
    "seed": 0,
    "prompts": ["the sun", "a"],
    "max_new_tokens": 40,
    "temperature": [0.0, 0.7],
    "top_p": [0.9, 1.0],
}


def test_the_grid_has_one_greedy_sample_for_each_prompt():
    assert sample_grid(SETTINGS) == [
        (prompt, temperature, top_p)
        for prompt in ("the sun", "a")
        for temperature, top_p in ((0.0, 1.0), (0.7, 0.9), (0.7, 1.0))
    ]


def test_samples_are_written_with_figures_and_repeat(run):
    texts = [run / f"corpora/tiny/{split}.txt" for split in ("train", "valid")]
    write_samples(SETTINGS, run / "run", *texts, run / "samples/tiny.json")
    result = read_json(run / "samples/tiny.json")
    assert {"corpus", "run", "tokenizer", "prompts", "samples", "reference"} <= result.keys()
    assert (result["run_status"], result["tokenizer"]) == ("finished", "tiny")
    assert len(result["samples"]) == 6
    for sample in result["samples"]:
        assert sample["ended"] or sample["tokens"] == 40
        assert 0 < sample["known_word_share"] <= 1
        assert 0 < sample["distinct_3"] <= 1
    assert result["reference"]["known_word_share"] == 1
    write_samples(SETTINGS, run / "run", *texts, run / "samples/again.json")
    again = read_json(run / "samples/again.json")
    assert result == again
    assert Path(run / "samples/tiny.json").read_text().count("NaN") == 0
