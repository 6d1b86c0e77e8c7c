"""The problems about tokenizers, on two tiny tokenizers."""

import re
from contextlib import contextmanager
from shutil import copytree
from typing import get_args

import pytest

from lmpipe.analysis.problems import tokenizer_training
from lmpipe.analysis.problems.registry import ANALYSES, compare_with_references
from lmpipe.io.files import read_json, write_json
from lmpipe.study.editions import write_up
from lmpipe.tokenizer.documents import StageCost, TokenizerTraining, TokenKind, TrainingStages
from lmpipe.tokenizer.evaluation import evaluate_tokenizers
from tests.support.fake_results import results_of, write_corpus_info
from tests.support.prose import render
from tests.tokenizer.test_evaluation import make_results

SIMPLE, WEB, COMPARISON = "train_bpe_tinystories", "train_bpe_expts_owt", "tokenizer_experiments"
SOURCE = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 330}}
CORPORA = {"stories": SOURCE | {"stands_for": "TinyStories"}, "docs": SOURCE | {"stands_for": "OpenWebText"}}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return the results of two tokenizers that were compared; not to be changed."""
    folder = tmp_path_factory.mktemp("tokenizers")
    make_results(folder)
    for corpus, settings in CORPORA.items():
        write_corpus_info(folder, corpus, settings)
    evaluation = evaluate_tokenizers(folder, ["stories", "docs"], {"stories": "stories", "docs": "docs"})
    evaluation.write(folder / "tokenizer_experiments.json")
    return folder


@pytest.fixture
def folder(compared, tmp_path):
    """Return a copy of the results."""
    return copytree(compared, tmp_path / "copy")


@contextmanager
def edited(folder):
    """Yield the comparison of the tokenizers to be changed."""
    content = read_json(folder / "tokenizer_experiments.json")
    yield content
    write_json(folder / "tokenizer_experiments.json", content)


def find(problem, folder, corpora=CORPORA):
    return ANALYSES[problem](results_of(folder, corpora=corpora))


@pytest.mark.parametrize("problem", [SIMPLE, WEB, COMPARISON])
def test_findings_are_complete(compared, problem):
    finding = find(problem, compared)
    assert finding.status == "answered"
    assert all(metric.value is not None for metric in finding.metrics.values())
    assert all((compared / metric.source).is_file() for metric in finding.metrics.values())
    blocks = render(problem, finding)
    assert blocks["question"].endswith("?") and blocks["answer"].endswith(".")
    assert all(blocks[f"{figure.id}_title"] for figure in finding.figures)
    assert not re.search(r"\b(None|nan)\b", " ".join(blocks.values()))


def test_the_cost_is_that_of_training_json_and_the_longest_tokens_are_judged(compared):
    stories, training = find(SIMPLE, compared), read_json(compared / "tokenizers/stories/training.json")
    assert stories.metrics["wall_seconds"].value == training["wall_seconds"]
    assert stories.metrics["peak_memory_bytes"].value == training["peak_memory_bytes"]
    assert sum(row[2] for row in stories.tables[0].rows[:-1]) == pytest.approx(1)
    longest = read_json(compared / "tokenizer_experiments.json")["tokenizers"]["stories"]["longest_tokens"]
    assert stories.metrics["longest_token"].value == longest[0]["text"]
    assert stories.metrics["longest_token_bytes"].value == longest[0]["bytes"]
    assert stories.facts["num_words"] == sum(token["kind"] in ("word", "joined words") for token in longest)


def test_the_vocabularies_are_compared_for_the_web_corpus(compared):
    finding = find(WEB, compared)
    (overlap,) = read_json(compared / "tokenizer_experiments.json")["overlaps"]
    assert finding.metrics["shared_tokens"].value == overlap["shared"]
    assert finding.metrics["share_of_simple_shared"].value == overlap["shared"] / (330 - 257)
    assert finding.metrics["share_of_web_shared"].value == overlap["shared"] / (330 - 257)
    lengths = finding.figures[0].data.groups
    assert [sum(counts) for counts in lengths.values()] == [330 - 257, 330 - 257]


def test_a_power_law_of_frequencies_has_its_exponent(folder):
    with edited(folder) as compared:
        for row in compared["compression"]:
            row["frequencies"] = {"1": 4_000, "2": 2_000, "4": 1_000, "8": 500}
    finding = find(WEB, folder)
    assert finding.metrics["zipf_exponent_web"].value == pytest.approx(-1)
    assert finding.figures[1].data.lines[0].x == [1, 2, 4, 8]


def test_compression_figures_are_those_of_the_cross_table(compared):
    rows = read_json(compared / "tokenizer_experiments.json")["compression"]
    by_names = {(row["corpus"], row["tokenizer"]): row for row in rows}
    figures = find(COMPARISON, compared).metrics
    pairs = {
        "bytes_per_token_simple_own": ("stories", "stories"),
        "bytes_per_token_web_own": ("docs", "docs"),
        "bytes_per_token_web_by_simple": ("docs", "stories"),
        "bytes_per_token_simple_by_web": ("stories", "docs"),
    }
    for name, pair in pairs.items():
        assert figures[name].value == by_names[pair]["valid_bytes_per_token"]
    tokens = {pair: row["valid_tokens"] for pair, row in by_names.items()}
    growth = tokens["docs", "stories"] / tokens["docs", "docs"] - 1
    assert figures["growth_web_by_simple"].value == pytest.approx(growth)


def test_throughput_is_that_on_web_text_and_gives_the_hours_for_the_pile(folder):
    with edited(folder) as compared:
        for name, rate in (("stories", 9e6), ("docs", 3e6)):
            compared["tokenizers"][name]["throughput"]["bytes_per_second"] = rate
            compared["tokenizers"][name]["pile_seconds"] = 825e9 / rate
    finding = find(COMPARISON, folder)
    assert finding.metrics["throughput_bytes_per_second"].value == 3e6
    assert finding.metrics["pile_hours"].value == pytest.approx(825e9 / 3e6 / 3600)
    rows = compare_with_references("tokenizer_experiments", finding, results_of(folder, corpora=CORPORA)).rows
    (hours,) = [row for row in rows if row.unit == "h"]
    assert hours.value == finding.metrics["pile_hours"].value
    other = {name: corpus | {"stands_for": None} for name, corpus in CORPORA.items()}
    assert find(COMPARISON, folder, other).metrics["throughput_bytes_per_second"].value == 9e6
    assert finding.facts["pile_factor"] == 825e9 / finding.facts["timed_bytes"]
    line = {line.label: line for line in finding.figures[0].data.lines}["docs"]
    assert line.x[-1] == 330 - 257
    assert line.y[-1] == finding.metrics["bytes_per_token_web_own"].value


def test_tokenizers_of_another_size_are_not_a_corpuss_own(folder):
    with edited(folder) as compared:
        compared["tokenizers"] = {"larger": compared["tokenizers"]["docs"]} | compared["tokenizers"]
        rows = [row | {"tokenizer": "larger"} for row in compared["compression"] if row["tokenizer"] == "docs"]
        compared["compression"] = rows + compared["compression"]
    finding = find(COMPARISON, folder)
    assert sorted(row["corpus"] for row in finding.facts["own"]) == ["docs", "stories"]
    assert len(finding.figures[0].data.lines) == 2


def test_a_vocabulary_beyond_16_bits_is_said_not_to_fit(folder):
    with edited(folder) as compared:
        compared["tokenizers"]["docs"]["largest_id"] = 70_000
        compared["compression"][0]["round_trip"] = False
    finding = find(COMPARISON, folder)
    assert finding.metrics["uint16_suffices"].value is False
    assert finding.metrics["round_trip"].value is False
    assert len(finding.facts["not_restored"]) == 1
    assert "**" in render(COMPARISON, finding)["details"]


def test_a_study_with_one_corpus_has_what_it_can_have(folder):
    study = {"docs": CORPORA["docs"]}
    assert find(SIMPLE, folder, study).status == "missing"
    evaluate_tokenizers(folder, ["docs"], {"docs": "docs"}).write(folder / "tokenizer_experiments.json")
    web = find(WEB, folder, study)
    assert web.status == "answered"
    assert "shared_tokens" not in web.metrics
    assert render(WEB, web)["token_lengths_title"]
    compression = find(COMPARISON, folder, study)
    assert compression.status == "partial"
    assert compression.metrics["bytes_per_token_web_own"].value > 1
    assert compression.metrics["bytes_per_token_simple_own"].value is None
    assert compression.metrics["bytes_per_token_simple_own"].missing_reason
    assert render(COMPARISON, compression)["answer"]


def test_missing_results_come_with_a_remedy(folder):
    (folder / "tokenizer_experiments.json").unlink()
    finding = find(SIMPLE, folder)
    assert finding.status == "partial"
    assert finding.metrics["longest_token"].missing_reason
    assert render(SIMPLE, finding)["answer"]
    assert find(COMPARISON, folder).status == "missing"
    (folder / "tokenizers" / "stories" / "training.json").unlink()
    assert "snakemake" in find(SIMPLE, folder).reason


def test_every_odd_kind_has_words(folder):
    kinds = [kind for kind in get_args(TokenKind) if kind not in tokenizer_training.WORDS]
    with edited(folder) as compared:
        profile = compared["tokenizers"]["stories"]
        profile["longest_tokens"] = [profile["longest_tokens"][0] | {"kind": kind} for kind in kinds]
    finding = find(SIMPLE, folder)
    assert finding.facts["odd_kinds"] == kinds
    assert render(SIMPLE, finding)["details"]


def test_full_text_time_grows_with_its_bytes_and_unique_pretokens(compared):
    text = write_up().texts["OpenWebText"]
    training = TokenizerTraining.read(compared / "tokenizers/docs/training.json")
    seconds = {"count": 3.0, "merge": 2.0, "save": 9.0}
    stages = {name: StageCost(wall_seconds=time, peak_memory_bytes=0) for name, time in seconds.items()}
    tenth = {
        "bytes": text.train_bytes / 10,
        "unique_pretokens": text.unique_pretokens / 4,
        "stages": TrainingStages(**stages),
    }
    metrics = tokenizer_training.extrapolation(training.model_copy(update=tenth), "training.json", "web")
    assert metrics["full_text_seconds"].value == pytest.approx(38)
    assert metrics["full_text_factor"].value == pytest.approx(10)


def test_no_extrapolation_to_a_text_of_the_same_size(folder):
    text_bytes = write_up().texts["OpenWebText"].train_bytes
    assert "extrapolated" in render(WEB, find(WEB, folder))["caveat"]
    path = folder / "tokenizers/docs/training.json"
    TokenizerTraining.read(path).model_copy(update={"bytes": text_bytes}).write(path)
    assert "extrapolated" not in render(WEB, find(WEB, folder))["caveat"]
