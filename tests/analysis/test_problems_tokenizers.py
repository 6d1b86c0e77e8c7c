import pytest

from lmpipe.analysis.problems import (
    tokenizer_experiments,
    tokenizer_training,
    train_bpe_expts_owt,
    train_bpe_tinystories,
)
from lmpipe.analysis.problems.write_up_comparison import compare_with_write_up
from lmpipe.io.files import read_json, write_json
from lmpipe.tokenizer.documents import StageCost, TokenizerEvaluation, TokenizerTraining, TrainingStages
from lmpipe.tokenizer.evaluation import evaluate_tokenizers
from tests.support.fake_results import results_of, write_corpus_info
from tests.tokenizer.test_evaluation import make_results

MODULES = [train_bpe_tinystories, train_bpe_expts_owt, tokenizer_experiments]
SOURCE = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 330}}
CORPORA = {"stories": SOURCE | {"stands_for": "TinyStories"}, "docs": SOURCE | {"stands_for": "OpenWebText"}}


@pytest.fixture
def folder(tmp_path):
    make_results(tmp_path)
    for corpus, settings in CORPORA.items():
        write_corpus_info(tmp_path, corpus, settings)
    compared = evaluate_tokenizers(tmp_path, ["stories", "docs"], {"stories": "stories", "docs": "docs"})
    compared.write(tmp_path / "tokenizer_experiments.json")
    return tmp_path


def find(module, folder, corpora=CORPORA):
    return module.analyze(results_of(folder, corpora=corpora))


@pytest.mark.parametrize("module", MODULES)
def test_findings_are_complete(folder, module):
    finding = find(module, folder)
    assert finding.status == "answered"
    assert all(figure.source and figure.value is not None for figure in finding.metrics.values())
    assert all((folder / figure.source).exists() for figure in finding.metrics.values())
    assert all(len(row) == len(table.columns) for table in finding.tables for row in table.rows)
    for sentence in finding.sentences:
        assert sentence.endswith(".")
        assert "None" not in sentence
        assert "nan" not in sentence.split()


@pytest.mark.parametrize(("module", "corpus"), [(train_bpe_tinystories, "stories"), (train_bpe_expts_owt, "docs")])
def test_the_cost_is_that_of_training_json(folder, module, corpus):
    training = read_json(folder / "tokenizers" / corpus / "training.json")
    finding = find(module, folder)
    assert finding.metrics["wall_seconds"].value == training["wall_seconds"]
    assert finding.metrics["peak_memory_bytes"].value == training["peak_memory_bytes"]
    shares = [row[2] for row in finding.tables[0].rows[:-1]]
    assert sum(shares) == pytest.approx(1)


def test_the_longest_tokens_are_named_and_judged(folder):
    stories = find(train_bpe_tinystories, folder)
    longest = read_json(folder / "tokenizer_experiments.json")["tokenizers"]["stories"]["longest_tokens"]
    assert stories.metrics["longest_token"].value == longest[0]["text"]
    assert stories.metrics["longest_token_bytes"].value == longest[0]["bytes"]


def test_the_vocabularies_are_compared_for_the_web_corpus(folder):
    finding = find(train_bpe_expts_owt, folder)
    (overlap,) = read_json(folder / "tokenizer_experiments.json")["overlaps"]
    assert finding.metrics["shared_tokens"].value == overlap["shared"]
    assert finding.metrics["share_of_simple_shared"].value == overlap["shared"] / (330 - 257)
    assert finding.metrics["share_of_web_shared"].value == overlap["shared"] / (330 - 257)
    by_kind = next(table for table in finding.tables if "kind" in table.caption)
    assert sum(row[1] for row in by_kind.rows) == 330 - 257


def test_compression_figures_are_those_of_the_cross_table(folder):
    rows = read_json(folder / "tokenizer_experiments.json")["compression"]
    by_names = {(row["corpus"], row["tokenizer"]): row for row in rows}
    figures = find(tokenizer_experiments, folder).metrics
    pairs = {
        "bytes_per_token_simple_own": ("stories", "stories"),
        "bytes_per_token_web_own": ("docs", "docs"),
        "bytes_per_token_web_by_simple": ("docs", "stories"),
        "bytes_per_token_simple_by_web": ("stories", "docs"),
    }
    for name, pair in pairs.items():
        assert figures[name].value == by_names[pair]["sample_bytes_per_token"]
        assert figures[f"{name}_whole_split"].value == by_names[pair]["valid_bytes_per_token"]


def test_throughput_is_that_on_web_text_and_gives_the_hours_for_the_pile(folder):
    path = folder / "tokenizer_experiments.json"
    compared = read_json(path)
    for name, rate in (("stories", 9e6), ("docs", 3e6)):
        compared["tokenizers"][name]["throughput"]["bytes_per_second"] = rate
        compared["tokenizers"][name]["pile_seconds"] = 825e9 / rate
    write_json(path, compared)
    finding = find(tokenizer_experiments, folder)
    assert finding.metrics["throughput_bytes_per_second"].value == 3e6
    assert finding.metrics["pile_hours"].value == pytest.approx(825e9 / 3e6 / 3600)
    rows = compare_with_write_up("tokenizer_experiments", finding, results_of(folder, corpora=CORPORA)).rows
    (hours,) = [row for row in rows if row.unit == "h"]
    assert hours.value == finding.metrics["pile_hours"].value
    assert "12.3 MB of docs" in hours.caveat and "OpenWebText" in hours.caveat
    other = {name: corpus | {"stands_for": None} for name, corpus in CORPORA.items()}
    assert find(tokenizer_experiments, folder, other).metrics["throughput_bytes_per_second"].value == 9e6
    (plot,) = finding.plots
    assert "tokenizer docs" in plot.data.groups


def test_a_vocabulary_beyond_16_bits_is_said_not_to_fit(folder):
    path = folder / "tokenizer_experiments.json"
    compared = read_json(path)
    compared["tokenizers"]["docs"]["uint16"] |= {"largest_id": 70_000, "fits_uint16": False}
    compared["compression"][0]["round_trip"] = False
    write_json(path, compared)
    finding = find(tokenizer_experiments, folder)
    assert finding.metrics["uint16_suffices"].value is False
    assert finding.metrics["round_trip"].value is False


def test_a_study_with_one_corpus_has_what_it_can_have(folder):
    study = {"docs": CORPORA["docs"]}
    assert find(train_bpe_tinystories, folder, study).status == "missing"
    evaluate_tokenizers(folder, ["docs"], {"docs": "docs"}).write(folder / "tokenizer_experiments.json")
    web = find(train_bpe_expts_owt, folder, study)
    assert web.status == "answered"
    assert "shared_tokens" not in web.metrics
    compression = find(tokenizer_experiments, folder, study)
    assert compression.status == "partial"
    assert compression.metrics["bytes_per_token_web_own"].value > 1
    assert compression.metrics["bytes_per_token_simple_own"].value is None
    assert compression.metrics["bytes_per_token_simple_own"].missing_reason


def test_missing_results_are_told_with_their_remedy(folder):
    (folder / "tokenizer_experiments.json").unlink()
    finding = find(train_bpe_tinystories, folder)
    assert finding.status == "partial"
    assert finding.metrics["longest_token"].missing_reason
    assert find(tokenizer_experiments, folder).status == "missing"
    (folder / "tokenizers" / "stories" / "training.json").unlink()
    assert "snakemake" in find(train_bpe_tinystories, folder).sentences[0]


def test_a_text_with_too_few_pairs_is_reported(folder):
    corpora = CORPORA | {"stories": CORPORA["stories"] | {"tokenizer": {"vocab_size": 5000}}}
    training = TokenizerTraining.read(folder / "tokenizers/stories/training.json")
    for study, num_sentences in ((CORPORA, 1), (corpora, 2)):
        results = results_of(folder, corpora=study)
        assert len(tokenizer_training.vocabulary_sentences(results, "stories", training)) == num_sentences


def test_every_odd_kind_has_words(folder):
    evaluation = TokenizerEvaluation.read(folder / "tokenizer_experiments.json")
    profile = evaluation.tokenizers["stories"]
    kinds = ["mojibake", "number", "punctuation", "repetition", "white space", "mixed", "not valid UTF-8", "mojibake"]
    tokens = tuple(profile.longest_tokens[0].model_copy(update={"kind": kind, "occurrences": 3}) for kind in kinds)
    (sentence,) = tokenizer_training.sense_sentences(profile.model_copy(update={"longest_tokens": tokens}))
    assert all(words[kinds.count(kind) - 1] in sentence for kind, words in tokenizer_training.ODD_KINDS.items())


def test_full_text_time_grows_with_its_bytes_and_unique_pretokens(folder):
    text_bytes, unique = tokenizer_training.FULL_TEXTS["web"]
    training = TokenizerTraining.read(folder / "tokenizers/docs/training.json")
    seconds = {"count": 3.0, "merge": 2.0, "save": 9.0}
    stages = {name: StageCost(wall_seconds=time, peak_memory_bytes=0) for name, time in seconds.items()}
    tenth = {"bytes": text_bytes / 10, "unique_pretokens": unique / 4, "stages": TrainingStages(**stages)}
    metrics = tokenizer_training.extrapolation(training.model_copy(update=tenth), "training.json", "web")
    assert metrics["full_text_seconds"].value == pytest.approx(38)


def test_no_extrapolation_to_a_text_of_the_same_size(folder):
    text_bytes, _ = tokenizer_training.FULL_TEXTS["web"]
    training = TokenizerTraining.read(folder / "tokenizers/docs/training.json")
    whole = training.model_copy(update={"bytes": text_bytes})
    assert tokenizer_training.extrapolation_sentences(training, "training.json", "web")
    assert not tokenizer_training.extrapolation_sentences(whole, "training.json", "web")
