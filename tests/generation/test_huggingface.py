"""A run exported in each format, loaded by transformers: the same logits, ids, text and greedy continuation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmpipe.generation.inference import load_run, read_run
from lmpipe.generation.sampling import generate
from lmpipe.model.transformer import TransformerLM
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from tests.support.odd_texts import ODD_TEXTS

LOAD_OPTIONS = {"huggingface": {}, "gguf": {"gguf_file": "model.gguf"}}


@pytest.fixture(scope="module", params=LOAD_OPTIONS)
def file_format(request):
    return request.param


@pytest.fixture(scope="module")
def llama(exported, file_format):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(exported / file_format, **LOAD_OPTIONS[file_format]).eval()


@pytest.fixture(scope="module")
def their_tokenizer(exported, file_format):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(exported / file_format, **LOAD_OPTIONS[file_format])


@pytest.fixture(scope="module")
def model_and_tokenizer(exported):
    return load_run(exported / "run")


def test_logits_are_those_of_the_run(exported, llama):
    config, weights, _ = read_run(exported / "run")
    trained = TransformerLM(config)
    trained.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    token_ids = torch.randint(config.vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = llama(token_ids).logits
        assert theirs.dtype == torch.float32
        torch.testing.assert_close(theirs, trained(token_ids), atol=1e-5, rtol=0)
    model = load_run(exported / "run")[0]
    for row, logits in zip(token_ids.tolist(), theirs, strict=True):
        inferred = model.forward([model.new_cache()], [0], [row])[0]
        np.testing.assert_allclose(inferred, logits[-1].numpy(), atol=1e-5, rtol=0)


def test_greedy_continuations_are_those_of_transformers_up_to_the_context_length(llama, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    for prompt in ("the sun", "a", "the moon sang a song"):
        prompt_ids = tokenizer.encode(prompt)
        [sample] = generate(model, tokenizer, [prompt], temperature=0, max_new_tokens=24 - len(prompt_ids))
        expected = llama.generate(torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=24 - len(prompt_ids))
        expected = expected[0].tolist()
        assert prompt_ids + sample.new_ids == expected[: -1 if sample.reached_eos else None]
        assert len(expected) == 24 or sample.reached_eos


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_ids_and_decoded_texts_are_the_same(their_tokenizer, model_and_tokenizer, text):
    tokenizer = model_and_tokenizer[1]
    token_ids = their_tokenizer(text).input_ids
    assert token_ids == their_tokenizer.encode(text) == tokenizer.encode(text)
    assert their_tokenizer.decode(token_ids) == tokenizer.decode(token_ids) == text


@settings(max_examples=50)
@given(text=st.text())
def test_ids_and_decoded_texts_of_any_characters_are_the_same(their_tokenizer, model_and_tokenizer, text):
    tokenizer = model_and_tokenizer[1]
    token_ids = their_tokenizer.encode(text)
    assert token_ids == tokenizer.encode(text)
    assert their_tokenizer.decode(token_ids) == text


@settings(max_examples=50)
@given(token_ids=st.lists(st.integers(0, 262)))
def test_any_ids_are_decoded_to_the_same_text(their_tokenizer, model_and_tokenizer, token_ids):
    assert their_tokenizer.decode(token_ids) == model_and_tokenizer[1].decode(token_ids)


def test_context_and_special_tokens_are_those_of_the_run(their_tokenizer, llama):
    assert len(their_tokenizer) == 263
    assert their_tokenizer.eos_token == their_tokenizer.bos_token == END_OF_TEXT
    assert llama.config.eos_token_id == their_tokenizer.eos_token_id == 256
    assert llama.config.max_position_embeddings == 24


@pytest.mark.parametrize("file_format", ["huggingface"], indirect=True)
def test_defaults_of_the_tokenizer_and_of_sampling_are_those_of_lmpipe(their_tokenizer, llama):
    assert their_tokenizer.model_max_length == 24
    config = llama.generation_config
    assert config.do_sample and (config.temperature, config.top_p) == (1.0, 1.0) and not config.top_k
    assert config.eos_token_id == 256
