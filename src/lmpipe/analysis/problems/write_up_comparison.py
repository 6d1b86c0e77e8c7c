"""The write-up's metrics beside a study's, with the differences in setting."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding, Reference, ReferenceRow
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.io.formatting import format_bytes, format_int, join_words
from lmpipe.study.corpora import UrlCorpus

LEFT_OPEN = "The write-up leaves this problem open, so there is no figure of its author to set beside these."


@cache
def write_up() -> dict[str, Any]:
    """Return the metrics of the write-up, and the sizes and checksums of its texts."""
    return json.loads((Path(__file__).parent / "write_up.json").read_text(encoding="utf-8"))


def compare_with_write_up(problem: str, finding: Finding, results: Results) -> Reference:
    """Return the write-up's metrics beside the study's, or a note if the write-up leaves the problem open."""
    rows = [
        ReferenceRow(
            label=entry["label"],
            reference=entry["value"],
            value=metric.value if (metric := finding.metrics.get(entry["metric"])) else None,
            missing_reason=metric.missing_reason if metric else "not measured in this study",
            unit=entry["unit"],
            setting=entry["setting"],
            caveat=describe_caveat(entry, problem, results),
        )
        for entry in write_up()["problems"].get(problem, [])
    ]
    return Reference(rows, LEFT_OPEN if problem in write_up()["left_open"] else "")


def describe_caveat(entry: dict[str, Any], problem: str, results: Results) -> str:
    """Describe the differences in setting between the write-up and this study."""
    if entry["compare"] == "shape":
        return "none, computed from the same shape"
    if entry["compare"] == "draw":
        return "another random draw of the starting weights"
    if entry["compare"] == "runs":
        return run_caveat(entry, problem, results)
    return tokenizer_caveat(entry["compare"].split()[:-1], results)


def tokenizer_caveat(roles: Sequence[str], results: Results) -> str:
    """Describe the differences for a tokenizer's metrics: text, its size, the vocabulary and the machine.

    The tokenizer is that of the first role which has a corpus.
    """
    corpus = next(filter(None, map(results.corpus_in_role, roles)), None)
    if corpus is None:
        return f"this study has no corpus in the place of {' or '.join(ROLE_DATASETS[role] for role in roles)}"
    return f"here {describe_text(results, corpus)}, {describe_vocabulary(results, corpus)}, and another machine"


def run_caveat(entry: dict[str, Any], problem: str, results: Results) -> str:
    """Describe the differences for a training metric: text, vocabulary, model, tokens and batch size."""
    experiment = results.experiment(problem)
    if experiment is None or not experiment.runs:
        return f"this study has no experiment {problem}"
    run = experiment.runs[0]
    model, training = run.config.model, run.config.training
    batches = sorted({other_run.setting("batch_size") for other_run in experiment.runs})
    sizes = f"batch size{'s' if len(batches) > 1 else ''} {join_words([format_int(size) for size in batches])}"
    shape = (
        f"d_model {format_int(model.d_model)}, {format_int(model.num_layers)} layers, context {model.context_length}"
    )
    corpus = run.config.corpus
    return (
        f"here {describe_text(results, corpus)}, vocabulary {format_int(model.vocab_size)}, a model of {shape}, "
        f"{format_int(training.total_tokens)} tokens a run, {sizes}, and another machine"
    )


def describe_text(results: Results, corpus: str) -> str:
    """Return the name and size of a corpus, and the write-up's text that it replaces."""
    info = results.corpora[corpus]
    size = format_bytes(info.splits.train.bytes)
    original = stand_in_for(results, corpus)
    replacement = (
        f" in the place of {original} ({format_bytes(write_up()['texts'][original]['train_bytes'])})"
        if original
        else ""
    )
    return f"{size} of {corpus}{replacement}"


def describe_vocabulary(results: Results, corpus: str) -> str:
    """Return the vocabulary of a corpus's own tokenizer beside the write-up's for the text that it stands for."""
    vocab_size = results.study.corpora[corpus].tokenizer.vocab_size
    original = results.study.corpora[corpus].stands_for
    original_size = write_up()["texts"][original]["vocab_size"] if original else None
    same_size = f"the same vocabulary of {format_int(vocab_size)}"
    return (
        same_size
        if original_size in (None, vocab_size)
        else f"a vocabulary of {format_int(vocab_size)} instead of {format_int(original_size)}"
    )


def stand_in_for(results: Results, corpus: str) -> str | None:
    """Return the write-up's text that a corpus replaces; None if it is that text, or replaces none.

    It is that text if its training split has the text's checksum, or if it declares exactly that file.
    """
    original = results.study.corpora[corpus].stands_for
    if original is None:
        return None
    checksum = write_up()["texts"][original]["train_sha256"]
    settings = results.study.corpora[corpus]
    declared = [text.sha256 for text in settings.files] if isinstance(settings, UrlCorpus) else []
    is_original = checksum == results.corpora[corpus].splits.train.sha256 or declared == [checksum]
    return None if is_original else original


def describe_corpus(results: Results, corpus: str) -> str:
    """Return a corpus in a sentence: its name, and the text that it replaces.

    `stories` becomes "stories (in the place of TinyStories)".
    """
    original = stand_in_for(results, corpus)
    return f"{corpus} (in the place of {original})" if original else corpus
