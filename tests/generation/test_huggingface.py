"""An exported run, loaded by the real transformers: the same logits, ids, text and greedy continuation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmpipe.errors import InputError
from lmpipe.generation import huggingface
from lmpipe.generation.huggingface import LLAMA, export
from lmpipe.generation.inference import load_run, read_run
from lmpipe.generation.sampling import generate
from lmpipe.model.transformer import TransformerLM
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.variants import WORDS

NAMES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\ttabs\r\nand line ends \n",
    "Hello , world ! do n't , I 'm ' s n't it ?",
    END_OF_TEXT,
    f"{END_OF_TEXT}{END_OF_TEXT} a{END_OF_TEXT}b <|endoftext| >",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 你好，世界 こんにちは 안녕하세요",
    "e\u0301 é ﬁ Å Å ½ ² Ⅷ 𝒳 \u200b\u200d\ufeff\u00a0\u3000\u2028",
    "👩‍👩‍👧‍👦🏳️‍🌈🇬🇧 \x00\x01\x7f\x85",
    "<s> </s> <unk> [PAD] ▁ Ġ Ċ <0x41>",
    "the sun sat on a stone.\n",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a study with a trained run, and its export."""
    study = make_tiny_study(tmp_path_factory.mktemp("export") / "results")
    shape = {"context_length": 24, "d_model": 24, "d_ff": 40, "num_heads": 2, "rope_theta": 500.0}
    train(tiny_run(model=shape), study, study / "run")
    export(study / "run", study / "exported")
    return study


@pytest.fixture(scope="module")
def llama(study):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(study / "exported").eval()


@pytest.fixture(scope="module")
def their_tokenizer(study):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(study / "exported")


@pytest.fixture(scope="module")
def model_and_tokenizer(study):
    return load_run(study / "run")


def test_logits_are_those_of_the_run(study, llama):
    config, weights, _ = read_run(study / "run")
    trained = TransformerLM(config)
    trained.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    token_ids = torch.randint(config.vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = llama(token_ids).logits
        assert exported.dtype == torch.float32
        torch.testing.assert_close(exported, trained(token_ids), atol=1e-5, rtol=0)
    model = load_run(study / "run")[0]
    for row, logits in zip(token_ids.tolist(), exported, strict=True):
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


def test_defaults_of_the_tokenizer_and_of_sampling_are_those_of_lmpipe(their_tokenizer, llama):
    assert len(their_tokenizer) == 263
    assert their_tokenizer.eos_token == their_tokenizer.bos_token == END_OF_TEXT
    assert their_tokenizer.model_max_length == 24
    config = llama.generation_config
    assert config.do_sample and (config.temperature, config.top_p) == (1.0, 1.0) and not config.top_k
    assert config.eos_token_id == their_tokenizer.eos_token_id == 256


@pytest.mark.parametrize(
    ("key", "word"), [(key, word) for key, words in WORDS.items() for word in words if word != LLAMA[key][0]]
)
def test_words_that_llama_cannot_express_are_refused_before_anything_is_written(
    study, tmp_path, monkeypatch, key, word
):
    config, weights, tokenizer = read_run(study / "run")
    refused = config.model_copy(update={key: word}), weights, tokenizer
    monkeypatch.setattr(huggingface, "read_run", lambda folder: refused)
    with pytest.raises(InputError, match=f"run: model.{key} is {word}"):
        export(study / "run", tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_an_earlier_export_are_replaced_and_nothing_else(study, tmp_path):
    target = tmp_path / "exported"
    target.mkdir()
    export(study / "run", target)
    assert {path.name for path in target.iterdir()} == NAMES
    (target / "config.json").write_text("{}")
    export(study / "run", target)
    for name in NAMES:
        assert (target / name).read_bytes() == (study / "exported" / name).read_bytes()
    (target / "notes.txt").write_text("mine")
    (tmp_path / "file").touch()
    for other in (target, study / "run", tmp_path / "file"):
        with pytest.raises(InputError, match=str(other)):
            export(study / "run", other)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_failed_export_leaves_no_file_and_is_repeated(study, tmp_path, name, monkeypatch):
    with monkeypatch.context() as patch:
        original = huggingface.llama_files
        patch.setattr(huggingface, "llama_files", lambda *args: original(*args) | {name: "not bytes"})
        with pytest.raises(TypeError):
            export(study / "run", tmp_path / "exported")
    assert [path for path in (tmp_path / "exported").iterdir() if path.name in NAMES] == []
    export(study / "run", tmp_path / "exported")
