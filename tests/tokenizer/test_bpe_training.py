from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.tokenizer import chunking, pretoken_counts, pretokenizer
from lmpipe.tokenizer.bpe_training import merge_pretokens, train_bpe, train_tokenizer
from lmpipe.tokenizer.documents import PretokenShard, TokenizerTraining
from lmpipe.tokenizer.pretoken_counts import count_shard
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, decode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.reference import naive_bpe

# Few letters make many ties and overlaps, which is where merge loops go wrong.
DENSE = st.text(alphabet="ab c", max_size=120)
VARIED = st.lists(
    st.sampled_from(["aaaa", "abab", " the", "\n\n", "é漢🙂", "<|a|>", "<|a|><|b|>", "\udcff"]) | st.characters(),
    max_size=50,
).map("".join)
SPECIALS = ["<|a|>", "<|a|><|b|>"]


def train_on(folder, text, vocab_size, special_tokens):
    path = folder / "text.txt"
    path.write_bytes(pretokenizer.encode_utf8(text))
    return train_bpe(path, vocab_size, special_tokens)


@given(text=st.one_of(DENSE, VARIED), merges=st.integers(0, 60))
@example(text="aaaaaaa aaa aa aaaaa", merges=10)
@example(text="abababa bababab", merges=10)
def test_training_equals_naive_bpe(tmp_path_factory, text, merges):
    text = decode_utf8(pretokenizer.encode_utf8(text))
    vocab_size = 256 + len(SPECIALS) + merges
    expected = naive_bpe.train(text, vocab_size, SPECIALS)
    with pytest.MonkeyPatch.context() as patch:
        for module in (chunking, pretoken_counts):
            patch.setattr(module, "BLOCK_BYTES", 20)
        assert train_on(tmp_path_factory.getbasetemp(), text, vocab_size, SPECIALS) == expected


def test_training_on_prose_equals_naive_bpe(tmp_path):
    path = pretokenizer.__file__
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert train_on(tmp_path, text, 700, []) == naive_bpe.train(text, 700, [])


def test_the_example_of_the_handout():
    counts = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
    _, merges = merge_pretokens(counts, 262, [])
    assert [left + right for left, right in merges] == [b"st", b"est", b"ow", b"low", b"west", b"ne"]


def test_ties_go_to_the_greater_pair_of_byte_strings_not_of_ids():
    _, merges = merge_pretokens({b"ab": 1, b"b\xff": 1, b"ba": 1}, 259, [])
    assert merges == [(b"b", b"\xff"), (b"b", b"a"), (b"a", b"b")]
    # Here a pair that starts with a longer token competes with one that starts with its prefix.
    _, merges = merge_pretokens({b"zz": 9, b"zzb": 2, b"zc": 2}, 258, [])
    assert merges == [(b"z", b"z"), (b"zz", b"b")]


def test_the_order_of_the_counts_does_not_matter():
    counts = Counter(naive_bpe.pretokens("she sells sea shells by the sea shore " * 3, []))
    backwards = dict(reversed(counts.items()))
    assert merge_pretokens(counts, 300, []) == merge_pretokens(backwards, 300, [])


def test_training_stops_when_no_pair_is_left(tmp_path):
    vocab, merges = train_on(tmp_path, "abc", 1000, [END_OF_TEXT])
    assert merges == [(b"b", b"c"), (b"a", b"bc")]
    assert len(vocab) == 259
    assert train_on(tmp_path, "", 1000, [])[1] == []


def test_ids_are_bytes_special_tokens_merges(tmp_path):
    vocab, merges = train_on(tmp_path, "hello hello", 262, ["<|b|>", "<|a|>", "<|b|>"])
    assert [vocab[byte] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert [vocab[256], vocab[257]] == [b"<|b|>", b"<|a|>"]
    assert [vocab[258 + index] for index in range(4)] == [left + right for left, right in merges]
    assert list(vocab) == list(range(262))


@pytest.mark.parametrize("name", ["text.txt.zst", "text.parquet", "text.jsonl"])
def test_files_of_other_formats_are_no_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"packed, or records")
    with pytest.raises(InputError, match="no plain text"):
        train_bpe(tmp_path / name, 300, [])


def test_a_vocabulary_that_is_too_small_is_refused_before_the_text_is_read(tmp_path):
    with pytest.raises(InputError, match="vocab_size: is 256"):
        train_bpe(tmp_path / "none.txt", 256, [END_OF_TEXT])


def make_counts(folder, text, shards):
    (folder / "train.txt").write_text(text, encoding="utf-8")
    paths = [folder / f"{shard}.npz" for shard in range(shards)]
    for shard, path in enumerate(paths):
        count_shard(folder / "train.txt", shard, shards, path, path.with_suffix(".json"))
    return paths


def test_train_tokenizer_depends_on_the_text_alone(tmp_path, monkeypatch):
    text = f"Once upon a time there was a cat. The cat sat. \u00e9t\u00e9\n{END_OF_TEXT}\n" * 20
    whole, sharded = tmp_path / "one", tmp_path / "three"
    whole.mkdir(), sharded.mkdir()
    first = train_tokenizer(make_counts(whole, text, 1), whole / "tokenizer", "stories", "stories", 280)
    for module in (chunking, pretoken_counts):
        monkeypatch.setattr(module, "BLOCK_BYTES", 5)
    second = train_tokenizer(make_counts(sharded, text, 3), sharded / "tokenizer", "stories", "stories", 280)
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (whole / "tokenizer" / name).read_bytes() == (sharded / "tokenizer" / name).read_bytes()
    same = ("sha256", "vocab_size", "merges", "special_tokens", "bytes", "pretokens", "unique_pretokens")
    assert first.model_dump(include=set(same)) == second.model_dump(include=set(same))
    assert Tokenizer.from_folder(whole / "tokenizer").merges == naive_bpe.train(text, 280, [END_OF_TEXT])[1]


def test_training_json_reports_the_cost_of_each_stage(tmp_path):
    paths = make_counts(tmp_path, f"one two {END_OF_TEXT} three" * 10, 2)
    training = train_tokenizer(paths, tmp_path / "tokenizer", "mine", "texts", 267)
    assert TokenizerTraining.read(tmp_path / "tokenizer" / "training.json") == training
    assert (training.tokenizer, training.corpus) == ("mine", "texts")
    assert training.vocab_size == 257 + training.merges == 267
    shards = [PretokenShard.read(path.with_suffix(".json")) for path in paths]
    assert training.stages.count.wall_seconds == sum(shard.wall_seconds for shard in shards)
    assert training.wall_seconds == sum(cost.wall_seconds for _, cost in training.stages)
    assert training.sha256 == Tokenizer.from_folder(tmp_path / "tokenizer").sha256


def test_a_vocabulary_that_the_text_is_too_small_for_is_refused_with_the_largest(tmp_path):
    paths = make_counts(tmp_path, f"one two {END_OF_TEXT} three" * 10, 1)
    with pytest.raises(InputError, match="use vocab_size: 267"):
        train_tokenizer(paths, tmp_path / "tokenizer", "mine", "texts", 268)
    assert not (tmp_path / "tokenizer").exists()


def test_special_tokens_get_the_first_ids_and_are_part_of_no_other(tmp_path):
    text = f"<|user|>aa aa{END_OF_TEXT}<|bot|>aa" * 20
    (tmp_path / "text.txt").write_text(text)
    options = ["--special-token=<|user|>", "--special-token=<|bot|>"]
    main(["count-pretokens", "--text", str(tmp_path / "text.txt"), "--output", str(tmp_path / "0.npz"), *options])
    folder = tmp_path / "tokenizer"
    main(["train-bpe", "--counts", str(tmp_path / "0.npz"), "--vocab-size", "261", "--output", str(folder), *options])
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.special_tokens == [END_OF_TEXT, "<|user|>", "<|bot|>"]
    assert [tokenizer.vocab[index] for index in (257, 258)] == [b"<|user|>", b"<|bot|>"]
    assert tokenizer.merges == naive_bpe.train(text, 261, tokenizer.special_tokens)[1]


def test_a_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="texts: has no text"):
        train_tokenizer(make_counts(tmp_path, "", 1), tmp_path / "tokenizer", "mine", "texts", 300)
