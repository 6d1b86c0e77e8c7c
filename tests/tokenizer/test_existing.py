"""Existing tokenizers: the same ids as in Hugging Face's library; others than GPT-2's kind are refused."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lmpipe.errors import InputError
from lmpipe.tokenizer.documents import TokenizerTraining
from lmpipe.tokenizer.existing import import_tokenizer, read_tokenizer, tokenizer_files
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.support.tiny_study import tiny_text

END = "<|endoftext|>"
TEXT = f"{tiny_text(20, 0)} Größe 日本 <|user|>the sun<|pad|>\n\n  x{END}" * 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a tokenizer as Hugging Face's trainer makes it: special tokens have the first ids."""
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END, "<|user|>", "<|pad|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([tiny_text(200, 1)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    return folder


def ids_of(folder, text):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def test_imported_tokenizer_gives_the_same_ids(trained, tmp_path):
    training = import_tokenizer(tokenizer_files(trained), tmp_path / "mine", "mine", "texts", 300)
    assert TokenizerTraining.read(tmp_path / "mine" / "training.json") == training
    assert training.special_tokens == (END, "<|user|>", "<|pad|>") and training.existing.endswith("tokenizer.json")
    opened = Tokenizer.from_folder(tmp_path / "mine")
    assert opened.encode(TEXT) == ids_of(trained, TEXT) == ids_of(tmp_path / "mine", TEXT)
    assert opened.decode(opened.encode(TEXT)) == TEXT


def test_gpt2_files_are_read_too(trained):
    files = [trained / "vocab.json", trained / "merges.txt"]
    vocabulary = Tokenizer.from_files(*files, [END])
    text = tiny_text(20, 0)
    assert vocabulary.encode(text) == ids_of(trained, text)


def test_a_missing_end_of_text_is_the_last_id(trained, tmp_path):
    content = json.loads((trained / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != END]
    del content["model"]["vocab"][END]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    vocabulary = read_tokenizer(tokenizer_files(tmp_path / "tokenizer.json"))
    assert vocabulary.vocab[300] == END.encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("pre_tokenizer",), None),
        (("pre_tokenizer", "type"), "Whitespace"),
        (("pre_tokenizer", "add_prefix_space"), True),
        (("pre_tokenizer", "use_regex"), False),
        (("normalizer",), {"type": "NFC"}),
        (("model", "type"), "WordPiece"),
        (("model", "byte_fallback"), True),
        (("model", "merges"), ["a b c"]),
        (("model", "merges"), []),
        (("model", "vocab"), {"a": 0}),
        (("model", "vocab"), {"▁": 0}),
        (("added_tokens",), [{"id": 0, "content": END, "lstrip": True}]),
    ],
)
def test_another_kind_of_tokenizer_is_refused(trained, tmp_path, path, value):
    content = json.loads((trained / "tokenizer.json").read_text())
    block = content
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_tokenizer(tokenizer_files(tmp_path))
    assert str(tmp_path) in error.value.where and error.value.remedy


def test_wrong_number_of_ids_is_refused_with_the_right_one(trained, tmp_path):
    with pytest.raises(InputError, match="use vocab_size: 300"):
        import_tokenizer(tokenizer_files(trained), tmp_path / "mine", "mine", "texts", 299)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.json"):
        with pytest.raises(InputError):
            tokenizer_files(path)


def test_older_files_do_not_name_the_kind_of_model(trained, tmp_path):
    data = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    del data["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert read_tokenizer(tokenizer_files(str(tmp_path))).vocab == read_tokenizer(tokenizer_files(str(trained))).vocab
