"""Problem main_experiment: the longest runs on both corpora, beside what simple models reach."""

import math
from dataclasses import dataclass, replace
from itertools import takewhile

from pydantic import JsonValue

from lmpipe.analysis.effects import effect_of, expectations
from lmpipe.analysis.experiment_findings import ORDER_NAMES, byte_yardsticks, groups_table, table_path
from lmpipe.analysis.finding import Figure, Finding, Line, Lines, Metric, Table, Yardstick
from lmpipe.analysis.outcomes import BITS, NATS, SeedGroup, best_group, document_interval, seed_groups, study_noise
from lmpipe.analysis.problems.generate import mark_text, read_samples
from lmpipe.analysis.results import ROLE_DATASETS, ExperimentRuns, Results
from lmpipe.analysis.runs import Run
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import RELATIVE
from lmpipe.study.problems import ABLATIONS

ID = "main_experiment"
NO_PAIR = "A comparison needs runs on a corpus in the place of TinyStories and on one of OpenWebText"


@dataclass(frozen=True)
class CorpusResult:
    """Best runs on one corpus, in nats per token; its role is `simple`, `web`, or None if another corpus has it."""

    corpus: str
    label: str
    role: str | None
    group: SeedGroup
    ngrams: dict[int, float]
    """Loss of the n-gram tables on the same training tokens by order; empty without yardsticks."""

    @property
    def per_byte(self) -> SeedGroup:
        """The runs with losses in bits per byte."""
        return replace(self.group, measure="bits_per_byte")

    @property
    def run(self) -> Run:
        """First run of the group."""
        return self.group.runs[0]

    @property
    def key(self) -> str:
        """Prefix of the metrics."""
        return self.role or self.corpus


def analyze(results: Results) -> Finding:
    """Return the losses on every corpus with their yardsticks, and the curves in bits per byte."""
    experiment = results.experiment(ID)
    tables = [groups_table(seed_groups(results, experiment))]
    sides = corpus_results(results, experiment)
    if not sides:
        return Finding("missing", tables=tables, reason="No seed learned on any corpus")
    is_pair = {side.role for side in sides} >= set(ROLE_DATASETS)
    first, noise = sides[0].per_byte, study_noise(results)
    effects = {side.group.name: effect_of(results, side.per_byte, first, noise) for side in sides[1:]}
    sizes = [side.group.parameters for side in sides]
    return Finding(
        "answered" if is_pair else "partial",
        {name: metric for side in sides for name, metric in side_metrics(results, experiment, side).items()},
        facts={
            "sides": [side_facts(side) for side in sides],
            "progress": progress_texts(results, sides[0].corpus),
            "size_ratio": max(sizes) / min(sizes),
            "is_same_shape": len({repr(side.group.model.model_copy(update={"vocab_size": 1})) for side in sides}) == 1,
            "largest": max(sides, key=lambda side: side.group.parameters).label,
            "tokens_per_parameter": sides[0].run.summary.tokens / sizes[0],
            "rate_tokens": rate_tokens(results, sides[0].run),
        },
        tables=[yardsticks_table(results, sides), *tables],
        figures=[hero_figure(results, sides)],
        expectations=expectations(results, ID, effects),
        reason="" if is_pair else NO_PAIR,
    )


def corpus_results(results: Results, experiment: ExperimentRuns) -> list[CorpusResult]:
    """Return the best runs on each corpus with a seed that learned: first those that are compared."""
    sides: list[CorpusResult] = []
    roles = {text: role for role, text in ROLE_DATASETS.items()}
    for corpus, runs in experiment.by_corpus().items():
        best = best_group(seed_groups(results, runs))
        role = roles.get(results.study.corpora[corpus].stands_for)
        if best:
            budget = results.yardstick(best.runs[0])
            ngrams = {ngram.order: ngram.loss for ngram in budget.ngrams} if budget else {}
            label = corpus_label(results.study, corpus)
            is_first = role not in {side.role for side in sides}
            sides.append(CorpusResult(corpus, label, role if is_first else None, best, ngrams))
    order = [*ROLE_DATASETS, None]
    return sorted(sides, key=lambda side: order.index(side.role))


def side_metrics(results: Results, experiment: ExperimentRuns, side: CorpusResult) -> dict[str, Metric]:
    """Return the metrics of one corpus; names start with its role, or with its name if it has none."""
    source, summary = table_path(experiment), side.run.summary
    metrics = {
        "corpus": Metric(side.corpus, "", source),
        "validation_loss": side.group.metric(source),
        "perplexity": side.group.perplexity(source),
        "bits_per_byte": Metric(side.per_byte.center, BITS, source, bits_interval(side)),
        "parameters": Metric(side.group.parameters, "parameters", source),
        "train_tokens": Metric(summary.tokens, "tokens", source),
        "vocab_size": Metric(side.group.model.vocab_size, "ids", source),
        "bytes_per_token": Metric(summary.validation_bytes / summary.validation_tokens, "bytes per token", source),
        "uniform_loss": Metric(math.log(side.group.model.vocab_size), NATS, source),
        "unigram_entropy": Metric(summary.unigram_entropy, NATS, source),
    }
    if side.ngrams:
        yardsticks, path = results.yardsticks(side.corpus), str(RELATIVE.yardsticks(side.corpus))
        for order, loss in side.ngrams.items():
            name = "fivegram" if order == 5 else ORDER_NAMES[order].replace("-", "")
            metrics[f"{name}_loss"] = Metric(loss, NATS, path)
        metrics["xz_bits_per_byte"] = Metric(yardsticks.xz_bits_per_byte, BITS, path)
    info = results.corpora.get(side.corpus)
    if info and info.ngram_overlap is not None:
        path = str(RELATIVE.corpus_info(side.corpus))
        metrics["ngram_overlap"] = Metric(info.ngram_overlap, "share of the validation 13-grams", path)
    return {f"{side.key}_{name}": metric for name, metric in metrics.items()}


def bits_interval(side: CorpusResult) -> tuple[float, float] | None:
    """Return the 95 % interval in bits per byte: over seeds, or for one seed that over documents, rescaled."""
    if side.group.num_seeds > 1:
        return side.per_byte.interval
    bounds = document_interval(side.run)
    scale = side.per_byte.center / side.group.center
    return (bounds[0] * scale, bounds[1] * scale) if bounds else None


def side_facts(side: CorpusResult) -> dict[str, JsonValue]:
    """Return the facts of one corpus: its losses, and the n-gram tables that the model passes until one is ahead.

    On few tokens the tables of high order are worse than the 3-gram's; to beat only those is no progress.
    """
    passed = list(takewhile(lambda order: side.group.center < side.ngrams[order], side.ngrams))
    ahead = [order for order in side.ngrams if order not in passed]
    return {
        "key": side.key,
        "label": side.label,
        "bits": side.per_byte.center,
        "num_seeds": side.group.num_seeds,
        "passed": ORDER_NAMES[passed[-1]] if passed else None,
        "ahead": ORDER_NAMES[ahead[0]] if ahead else None,
    }


def yardsticks_table(results: Results, sides: list[CorpusResult]) -> Table:
    """Return a row for each simple model and for the transformer, in nats per token and bits per byte."""
    columns = ["model", *(f"{side.label} ({unit})" for side in sides for unit in ("nats", "bits per byte"))]
    cells: dict[str, list[float | None]] = {
        name: [] for name in ("uniform", *ORDER_NAMES.values(), "xz", "transformer")
    }
    for side in sides:
        yardsticks, budget = results.yardsticks(side.corpus), results.yardstick(side.run)
        rows: dict[str, list[float | None]] = {"transformer": [side.group.center, side.per_byte.center]}
        if yardsticks and budget:
            lines = {line.label: line.value for line in byte_yardsticks(results, side.run)}
            rows |= {"uniform": [yardsticks.uniform_loss, lines["uniform"]], "xz": [None, lines["xz"]]}
            rows |= {ORDER_NAMES[ngram.order]: [ngram.loss, ngram.bits_per_byte] for ngram in budget.ngrams}
        for name, row in cells.items():
            row.extend(rows.get(name, [None, None]))
    caption = "Loss on the validation split, beside simple models on the same training tokens"
    table = [[name, *row] for name, row in cells.items() if any(value is not None for value in row)]
    return Table(caption, columns, table, "xz has no tokens, or the yardsticks have not been computed")


def hero_figure(results: Results, sides: list[CorpusResult]) -> Figure:
    """Return bits per byte against training tokens on each corpus, with the yardsticks of the first."""
    lines = []
    for side in sides:
        for run in side.group.learned:
            # A curve has nats per token: the end of the run gives the factor to bits per byte.
            scale = run.summary.bits_per_byte / run.loss
            curve = {tokens: loss * scale for tokens, loss in run.validation_losses().items() if tokens}
            lines.append(Line(side.label, side.corpus, list(curve), list(curve.values())))
    ends = [
        run.config.training.total_tokens
        for name in ABLATIONS
        if (ablation := results.experiment(name))
        for run in ablation.runs
    ]
    marks = [Yardstick("ablations end", max(ends))] if ends else []
    yardsticks = byte_yardsticks(results, sides[0].run)
    data = Lines("training tokens", "bits per byte of validation text", lines, yardsticks, marks, log_x=True)
    return Figure("hero", data)


def rate_tokens(results: Results, run: Run) -> int | None:
    """Return the training tokens of the sweep that a run's rate is from, if they are others than the run's."""
    source = run.config.lr_source
    sweep = results.experiment(source.best_of) if source else None
    tokens = max((other.config.training.total_tokens for other in sweep.runs), default=None) if sweep else None
    return None if tokens == run.config.training.total_tokens else tokens


def progress_texts(results: Results, corpus: str) -> list[dict[str, JsonValue]]:
    """Return the texts that runs of growing budgets write, with unknown words and repetitions marked."""
    samples = read_samples(results, corpus)
    records = sorted(samples.progress if samples else (), key=lambda record: record.train_tokens)
    return [
        {
            "train_tokens": record.train_tokens,
            "loss": record.loss,
            "spans": [list(span) for span in mark_text(record.prompt + record.text, record.unknown_words)],
        }
        for record in records
    ]
