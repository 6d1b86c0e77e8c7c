from collections import Counter

import pytest

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.tokenizer import evaluation, pretokenizer
from lmpipe.tokenizer.bpe_training import train_tokenizer
from lmpipe.tokenizer.evaluation import (
    compare_vocabularies,
    count_occurrences,
    evaluate_tokenizers,
    excerpt,
    longest_tokens,
    measure_throughput,
    sample_documents,
    text_prefix,
    token_kind,
)
from lmpipe.tokenizer.pretoken_counts import count_shard
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer

STORY = "Once upon a time a small cat met a responsible dog. They played together, happily.\n"
PAGE = "Returns the ValueError of np.array([1, 2]); see also:\n----------------\n Paramètres \xff\n"


def make_results(folder):
    texts = {"stories": STORY, "docs": PAGE}
    for name, text in texts.items():
        corpus = folder / "corpora" / name
        corpus.mkdir(parents=True)
        for split, times in (("train", 60), ("valid", 14)):
            documents = "".join(f"{text}Number {number}.{END_OF_TEXT}\n" for number in range(times))
            (corpus / f"{split}.txt").write_bytes(documents.encode("latin-1"))
        counts = folder / "pretokens" / name / "0.npz"
        count_shard(corpus / "train.txt", 0, 1, counts, counts.with_suffix(".json"))
        train_tokenizer([counts], folder / "tokenizers" / name, name, name, 330)
        tokens = folder / "tokens" / name / "train"
        tokenizer = Tokenizer.from_folder(folder / "tokenizers" / name)
        encode_file(corpus / "train.txt", tokenizer, tokens.with_suffix(".bin"), tokens.with_suffix(".json"), name)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("a study"))


@pytest.fixture(scope="module")
def compared(results):
    return evaluate_tokenizers(results, ["stories", "docs"], {"stories": "stories", "docs": "docs"}, seed=3)


def test_every_tokenizer_is_measured_on_every_corpus(results, compared):
    rows = {(row.tokenizer, row.corpus): row for row in compared.compression}
    assert len(rows) == 4
    for (name, corpus), row in rows.items():
        data = (results / "corpora" / corpus / "valid.txt").read_bytes()
        ids = Tokenizer.from_folder(results / "tokenizers" / name).encode(pretokenizer.decode_utf8(data))
        assert (row.valid_tokens, row.largest_id) == (len(ids), max(ids))
        assert row.valid_bytes_per_token == len(data) / len(ids)
        assert row.in_domain == (name == corpus)
        assert row.round_trip
    for corpus, other in (("stories", "docs"), ("docs", "stories")):
        own, foreign = rows[corpus, corpus], rows[other, corpus]
        assert own.valid_bytes_per_token > foreign.valid_bytes_per_token


def test_compression_by_merges_is_that_of_tokenizers_with_fewer_merges(results, compared):
    name = "stories"
    own = next(row for row in compared.compression if row.tokenizer == row.corpus == name)
    data = (results / "corpora" / name / "valid.txt").read_bytes()
    tokenizer = Tokenizer.from_folder(results / "tokenizers" / name)
    by_merges = compared.tokenizers[name].compression_by_merges
    assert list(by_merges) == ["16", "32", "64", "73"]
    assert by_merges["73"] == own.valid_bytes_per_token
    vocab = {index: bytes([index]) for index in range(256)} | {
        256 + rank: left + right for rank, (left, right) in enumerate(tokenizer.merges[:16])
    }
    ids = Tokenizer(vocab, tokenizer.merges[:16], [END_OF_TEXT]).encode(pretokenizer.decode_utf8(data))
    assert by_merges["16"] == len(data) / len(ids)


def test_frequencies_by_rank_are_those_of_the_validation_text(results, compared):
    row = next(row for row in compared.compression if row.tokenizer == row.corpus == "docs")
    data = (results / "corpora" / "docs" / "valid.txt").read_bytes()
    ids = Tokenizer.from_folder(results / "tokenizers" / "docs").encode(pretokenizer.decode_utf8(data))
    ordered = [count for _, count in Counter(ids).most_common()]
    assert [ordered[int(rank) - 1] for rank in row.frequencies] == list(row.frequencies.values())
    assert list(row.frequencies)[:6] == ["1", "2", "3", "4", "6", "8"]


def test_sample_metrics_belong_to_the_sampled_documents(results, compared):
    sample = compared.corpora["docs"]
    sampled = sample_documents(results / "corpora" / "docs" / "valid.txt", 10, seed=3)
    assert (sample.documents, sample.bytes) == (10, sum(map(len, sampled)))
    tokenizer = Tokenizer.from_folder(results / "tokenizers" / "stories")
    tokens = sum(len(tokenizer.encode(pretokenizer.decode_utf8(document))) for document in sampled)
    row = next(r for r in compared.compression if (r.tokenizer, r.corpus) == ("stories", "docs"))
    assert row.sample_tokens == tokens
    assert row.sample_bytes_per_token == sample.bytes / tokens


def test_the_largest_id_is_that_of_all_texts(compared):
    for name, tokenizer in compared.tokenizers.items():
        rows = [row.largest_id for row in compared.compression if row.tokenizer == name]
        assert max(rows) <= tokenizer.largest_id < tokenizer.vocab_size == 330


def test_the_time_for_the_pile_follows_from_the_throughput(compared):
    for tokenizer in compared.tokenizers.values():
        assert tokenizer.pile_seconds * tokenizer.throughput.bytes_per_second == pytest.approx(825e9)
        measured = tokenizer.throughput
        assert measured.bytes_per_second == measured.bytes / sorted(measured.seconds)[1]


def test_vocabularies_are_described_from_their_merges(results, compared):
    tokenizer = Tokenizer.from_folder(results / "tokenizers" / "docs")
    merged = [tokenizer.vocab[token_id] for token_id in range(257, 330)]
    described = compared.tokenizers["docs"]
    assert described.merges == len(merged) == sum(described.lengths.values()) == sum(described.kinds.values())
    assert described.mean_length == sum(map(len, merged)) / len(merged)
    longest = described.longest_tokens
    assert [token.bytes for token in longest] == sorted(map(len, merged), reverse=True)[:10]
    ruler = next(token for token in longest if token.text == "-" * 16)
    assert ruler.kind == "repetition"
    assert ruler.occurrences == 60
    assert f"‹{'-' * 16}›" in ruler.excerpt
    assert tokenizer.vocab[ruler.id] == b"-" * 16


def test_overlaps_count_tokens_that_both_have(results, compared):
    opened = {name: Tokenizer.from_folder(results / "tokenizers" / name) for name in ("stories", "docs")}
    sets = {name: {left + right for left, right in tokenizer.merges} for name, tokenizer in opened.items()}
    (overlap,) = compared.overlaps
    assert overlap.shared == len(sets["stories"] & sets["docs"]) > 0
    empty = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    assert compare_vocabularies("a", "b", {"a": empty, "b": opened["docs"]}).shared == 0


def test_a_tokenizer_without_merges_is_compared_too(results):
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT]).save(results / "tokenizers" / "bytes")
    evaluation = evaluate_tokenizers(results, ["docs"], {"bytes": "docs"})
    (own,) = evaluation.compression
    assert own.sample_bytes_per_token == 1
    assert evaluation.tokenizers["bytes"].longest_tokens == ()
    assert evaluation.tokenizers["bytes"].mean_length is None
    assert evaluation.tokenizers["bytes"].compression_by_merges == {"0": own.valid_bytes_per_token}


def test_samples_are_seeded_and_complete_where_documents_are_few(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text(END_OF_TEXT.join(map(str, range(100))), encoding="utf-8")
    first = sample_documents(path, 10, seed=1)
    assert first == sample_documents(path, 10, seed=1)
    assert first != sample_documents(path, 10, seed=2)
    assert len(set(first)) == 10 and set(first) <= {str(number).encode() for number in range(100)}
    assert len(sample_documents(path, 1000, seed=1)) == 100
    path.write_text(f"\n{END_OF_TEXT}\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no documents"):
        sample_documents(path, 10, seed=1)


def test_the_timed_text_ends_after_a_document(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(f"one{END_OF_TEXT}two{END_OF_TEXT}three", encoding="utf-8")
    assert text_prefix(path, 25) == f"one{END_OF_TEXT}"
    assert text_prefix(path, 1000) == f"one{END_OF_TEXT}two{END_OF_TEXT}three"
    assert text_prefix(path, 5) == "one<|"


def test_every_timed_pass_starts_with_an_empty_cache(monkeypatch):
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    empty = []
    encode = tokenizer.encode_to_numpy

    def spy(text):
        empty.append(tokenizer.encoder.used == 0)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode_to_numpy", spy)
    assert measure_throughput(tokenizer, "some words").bytes == 10
    assert empty == [True] * evaluation.THROUGHPUT_PASSES


def test_cache_is_cleared_after_measuring(results):
    tokenizer = Tokenizer.from_folder(results / "tokenizers" / "docs")
    path = results / "corpora" / "docs" / "valid.txt"
    assert evaluation.measure_compression(
        tokenizer, path, sample_documents(path, 3, seed=0), "docs", "docs", in_domain=True
    ).round_trip
    assert tokenizer.encoder.used == 0


def test_occurrences_are_counted_inside_documents(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(f"ababab{END_OF_TEXT}xab{END_OF_TEXT}", encoding="utf-8")
    occurrences = count_occurrences(path, [b"ab", b"abab", b"text", b">x"])
    assert {token: count for token, (count, _) in occurrences.items()} == {b"ab": 4, b"abab": 1, b"text": 0, b">x": 0}
    assert occurrences[b"abab"][1] == "‹abab›ab"
    assert occurrences[b"text"][1] == ""


def test_excerpts_hold_whole_characters_on_one_line():
    document = ("漢" * 100 + "\n token \n" + "é" * 100).encode()
    assert excerpt(document, b"token") == "漢" * 58 + " ‹token› " + "é" * 58


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (" accomplishment", "word"),
        ("été", "word"),
        ("हिन्दी", "word"),
        (" RuntimeError", "joined words"),
        ("--------", "repetition"),
        (" =-=-=-", "repetition"),
        ("0000", "repetition"),
        ("2024", "number"),
        (").", "punctuation"),
        ("'ve", "mixed"),
        ("\n\n  ", "white space"),
        ("ÃÂ" * 16, "mojibake"),
        ("â€™", "mojibake"),
        ("Ã©", "mojibake"),
        ("é", "word"),
        (b"\xe2\x80", "not valid UTF-8"),
    ],
)
def test_kinds_follow_rules(token, kind):
    assert token_kind(token if isinstance(token, bytes) else token.encode()) == kind


def test_the_longest_tokens_of_equal_length_come_in_order_of_their_ids(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("ab cd", encoding="utf-8")
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"cd", 257: b"ab"}
    tokenizer = Tokenizer(vocab, [(b"c", b"d"), (b"a", b"b")])
    assert [token.text for token in longest_tokens(tokenizer, path)] == ["cd", "ab"]
