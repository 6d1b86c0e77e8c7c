"""Results folder of a small study with losses from a formula, for the tests of plots, problems and report."""

import csv
import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lmpipe.analysis.results import Results
from lmpipe.data.documents import CorpusInfo, CorpusSplits, NgramBudget, NgramLoss, SplitInfo, Yardsticks
from lmpipe.planning.plan import load_plan
from lmpipe.provenance.environment import Environment
from lmpipe.report.plots.style import Drawing
from lmpipe.study.experiments import BestOf, PlannedRun
from lmpipe.study.schema import read_study
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.run_documents import (
    LearningRateSource,
    RunConfig,
    RunSummary,
    TokenFileReference,
    TokenFileReferences,
    TokenizerReference,
)
from tests.support.run_documents import run_config, run_summary

MODEL = {"context_length": 128, "d_model": 64, "d_ff": 192, "num_layers": 4, "num_heads": 4}
TRAINING = {"total_tokens": 409600, "batch_size": 16, "max_lr": 0.01}
CORPORA = {
    "stories": {
        "source": "stories",
        "documents": 30000,
        "tokenizer": {"vocab_size": 1024},
        "stands_for": "TinyStories",
    },
    "docs": {
        "source": "docstrings",
        "packages": ["torch", "numpy"],
        "tokenizer": {"vocab_size": 2048},
        "stands_for": "OpenWebText",
    },
}
ENTROPY = {"stories": 5.21, "docs": 6.43, "tales": 5.52}
BYTES_PER_TOKEN = {"stories": 3.92, "docs": 3.41, "tales": 3.73}
ENVIRONMENT = {
    "versions": {"python": "3.11.7", "lmpipe": "0.1.0", "torch": "2.13.0", "numpy": "2.3.1", "regex": "2025.9.1"},
    "hardware": {"processor": "AMD EPYC", "cores": 2, "memory_bytes": 24 * 2**30, "system": "Linux 6.1 x86_64"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 3.0)
BEST_RATE = 0.01
TUNED = {"corpus": "stories", "max_lr": {"best_of": "learning_rate"}}
EXPERIMENTS = {
    "learning_rate": {"corpus": "stories", "sweep": {"max_lr": list(RATES)}},
    "batch_size_experiment": {
        "corpus": "stories",
        "sweep": {
            "batch_size": [1, 4, 16, 64],
            "max_lr": {"best_of": "learning_rate", "scale": "sqrt_batch_size", "factor": [0.5, 1, 2]},
        },
    },
    "layer_norm_ablation": TUNED
    | {
        "seeds": [0, 1, 2],
        "runs": {
            "baseline": {},
            "no_norm": {"norm": "none"},
            "no_norm_tuned": {"norm": "none", "sweep": {"max_lr": [0.001, 0.003]}},
        },
    },
    "pre_norm_ablation": TUNED | {"seeds": [0, 1, 2], "runs": {"baseline": {}, "post_norm": {"norm": "post"}}},
    "no_pos_emb": TUNED | {"runs": {"baseline": {}, "nope": {"position_embedding": "none"}}},
    "swiglu_ablation": TUNED
    | {"seeds": [0, 1, 2], "runs": {"baseline": {}, "silu": {"feed_forward": "silu", "d_ff": 288}}},
    "main_experiment": {
        "total_tokens": 2_048_000,
        "runs": {"stories": {"corpus": "stories"}, "docs": {"corpus": "docs"}},
    },
    "vocabulary": {"corpus": "stories", "seeds": [0, 1], "sweep": {"vocab_size": [512, 1024, 4096]}},
}


def write_corpus_info(folder: Path, corpus: str, settings: dict[str, Any]) -> None:
    """Write corpora/CORPUS/corpus.json with made-up sizes."""
    CorpusInfo(
        corpus=corpus,
        source=settings.get("source", "files"),
        settings=settings,
        splits=CorpusSplits(
            train=SplitInfo(bytes=12_345_678, documents=29_700, sha256=f"{corpus}-train"),
            valid=SplitInfo(bytes=123_456, documents=300, sha256=f"{corpus}-valid"),
        ),
        versions=dict.fromkeys(settings.get("packages", []), "9.8.7"),
        ngram_overlap=0.18,
    ).write(folder / "corpora" / corpus / "corpus.json")


def fake_study(**changes: Any) -> dict[str, Any]:
    """Return a study file's content, with other values of some keys."""
    defaults = {
        "study": "fabricated",
        "seeds": [0],
        "corpora": CORPORA,
        "model": MODEL,
        "training": TRAINING,
        "experiments": EXPERIMENTS,
        "accounting": {"models": {}, "device_memory_gb": 80.0},
    }
    return defaults | changes


def fabricate_yardsticks(
    results: Results, corpus: str, budgets: dict[int, dict[int, float]], tokenizer: str = ""
) -> None:
    """Write yardsticks/CORPUS.json; `budgets` are losses by order of the n-gram, by number of training tokens."""
    per_byte = 1 / math.log(2) / BYTES_PER_TOKEN[corpus]
    vocab_size = results.study.corpora[corpus].tokenizer.vocab_size

    def ngrams(losses: dict[int, float]) -> tuple[NgramLoss, ...]:
        return tuple(NgramLoss(order=n, loss=loss, bits_per_byte=loss * per_byte) for n, loss in losses.items())

    Yardsticks(
        corpus=corpus,
        tokenizer=tokenizer or corpus,
        vocab_size=vocab_size,
        valid_tokens=1000,
        valid_bytes=round(1000 * BYTES_PER_TOKEN[corpus]),
        uniform_loss=math.log(vocab_size),
        budgets=tuple(NgramBudget(train_tokens=tokens, ngrams=ngrams(losses)) for tokens, losses in budgets.items()),
        xz_bits_per_byte=1.02,
    ).write(results.folder / "yardsticks" / f"{corpus}.json")


def results_of(folder: Path, **changes: Any) -> Results:
    """Open a results folder without runs, of a study with other values of some keys."""
    return Results(folder, read_study(fake_study(**changes), "the fabricated study"), {})


def fabricate_study(
    folder: Path,
    experiments: dict[str, Any] = EXPERIMENTS,
    model: dict[str, Any] = MODEL,
    corpora: dict[str, Any] = CORPORA,
) -> Results:
    """Write a study's folder, without plots and tables, and open it."""
    study = fake_study(corpora=corpora, model=model, experiments=experiments)
    plan = load_plan(study, "the fabricated study")
    for corpus, settings in corpora.items():
        write_corpus_info(folder, corpus, settings)
    for run in plan.runs:
        vocab_size = plan.tokenizers[run.tokenizer][1]
        fabricate_run(folder / run.folder, run, vocab_size)
    return Results(folder, plan.study, plan.run_keys())


def change_summary(results: Results, run: str, **changes: Any) -> None:
    """Rewrite parts of the summary of a run, such as "no_pos_emb/nope/seed0", which nothing has read yet."""
    path = results.folder / "runs" / run / "summary.json"
    write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def final_loss(model: ModelConfig, training: TrainingSettings, corpus: str, seed: int) -> float:
    """Return a loss with its optimum at a peak rate of 0.01 and batch size 16, worse for every ablation."""
    loss = 0.45 * ENTROPY[corpus] + 0.03 * (seed - 1) + 0.1 * math.log2(model.vocab_size / 1024)
    loss += 0.07 * math.log(training.max_lr / 0.01) ** 2 + 0.04 * math.log2(training.batch_size / 16) ** 2
    loss += {"pre": 0.0, "post": 0.02 * (seed - 1), "none": 0.31}[model.norm]
    loss += 0.24 if model.position_embedding == "none" else 0.0
    return loss + (0.06 + 0.004 * seed if model.feed_forward == "silu" else 0.0)


def resolve_rate(run: PlannedRun) -> tuple[float, LearningRateSource | None]:
    """Return the peak rate of a run, with best_of taken for BEST_RATE, and the sweep that a best_of rate is from."""
    rate = run.training.max_lr
    if not isinstance(rate, BestOf):
        return rate, None
    source = LearningRateSource(
        best_of=rate.best_of,
        scale=rate.scale,
        factor=rate.factor or 1.0,
        best_run=f"max_lr={BEST_RATE}",
        best_max_lr=BEST_RATE,
        best_batch_size=TRAINING["batch_size"],
        interpolated_lr=None,
    )
    return BEST_RATE * source.factor * (math.sqrt(run.training.batch_size / 16) if rate.scale else 1.0), source


def token_file(tokenizer: str, split: str) -> TokenFileReference:
    """Return the reference to a token file that does not exist."""
    path, sha256 = f"tokens/{tokenizer}/{split}.bin", f"{tokenizer}-{split}"
    return TokenFileReference(path=path, sha256=sha256, tokens=10**6)


def fabricate_run(target: Path, run: PlannedRun, vocab_size: int) -> None:
    """Write one run: rates above 1 diverge, and so does the model without norms at 0.01 with seed 2."""
    (max_lr, source), name = resolve_rate(run), run.tokenizer
    config = run_config(
        study="fabricated",
        experiment=run.experiment,
        run=run.name,
        seed=run.seed,
        corpus=run.corpus,
        overrides=run.overrides | ({"max_lr": max_lr} if "max_lr" in run.overrides else {}),
        tokenizer=TokenizerReference(name=name, path=f"tokenizers/{name}", sha256=name),
        tokens=TokenFileReferences(train=token_file(name, "train"), valid=token_file(name, "valid")),
        model=ModelConfig(vocab_size=vocab_size, **run.model.model_dump()),
        training=TrainingSettings(**run.training.model_dump() | {"max_lr": max_lr}),
        lr_source=source,
    )
    model, training = config.model, config.training
    diverged = max_lr > 1 or (model.norm == "none" and max_lr == BEST_RATE and run.seed == 2)
    final = final_loss(model, training, run.corpus, run.seed)
    planned = max(1, training.total_tokens // (training.batch_size * model.context_length))
    steps = planned // 3 if diverged else planned
    rows = fabricate_metrics(steps, planned, training.batch_size, final, math.log(vocab_size), diverged)
    target.mkdir(parents=True, exist_ok=True)
    config.write(target / "config.json")
    fabricate_summary(config, rows, final, diverged, planned).write(target / "summary.json")
    with open(target / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def fabricate_metrics(
    steps: int, planned: int, batch_size: int, final: float, initial: float, diverged: bool
) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv: an exponential approach to the final loss, or a climb that ends in nan."""
    rows = []
    for step in range(steps + 1):
        share = step / planned
        loss = final + (initial - final) * math.exp(-7 * share) * (1 - share)
        if diverged:
            loss = initial + 0.4 + 30 * share**2
        evaluated = step % max(1, planned // 10) == 0 or step == steps
        tokens = step * batch_size * 128
        rows.append(
            {
                "step": step,
                "tokens": tokens,
                "wall_seconds": f"{tokens / speed_of(batch_size):.4f}",
                "learning_rate": 0.01 if step else "",
                "train_loss": "" if step == 0 else f"{loss + 0.08 * math.sin(2.4 * step):.5f}",
                "validation_loss": f"{loss:.5f}" if evaluated else "",
                "grad_norm": 1.0 if step else "",
            }
        )
    if diverged:
        rows[-1] |= {"train_loss": "nan", "validation_loss": "nan"}
    return rows


def speed_of(batch_size: int) -> float:
    """Tokens per second, which grow with the batch size and less and less so."""
    return 16_000 / (1 + 3 / batch_size)


def fabricate_summary(
    config: RunConfig, rows: list[dict[str, Any]], final: float, diverged: bool, planned: int
) -> RunSummary:
    """Return the summary that fits a run's rows."""
    model, seconds, last = config.model, float(rows[-1]["wall_seconds"]), rows[-1]
    loss = None if diverged else round(final, 6)
    bytes_per_token = BYTES_PER_TOKEN[config.corpus] * (1 + 0.15 * math.log2(model.vocab_size / 1024))
    outcome = {
        "status": "diverged",
        "reason": "the loss is not finite",
        "detected_step": last["step"],
        "divergence_step": max(1, last["step"] // 3),
    }
    return run_summary(
        **outcome if diverged else {},
        steps=last["step"],
        planned_steps=planned,
        tokens=last["tokens"],
        initial_loss=math.log(model.vocab_size),
        final_train_loss=loss,
        validation_loss=loss,
        validation_loss_se=None if diverged else 0.013,
        best_validation_loss=loss,
        perplexity=loss and math.exp(loss),
        bits_per_byte=loss and loss / math.log(2) / bytes_per_token,
        validation_tokens=round(123_156 / bytes_per_token),
        validation_bytes=123_156,
        unigram_entropy=ENTROPY[config.corpus],
        parameters=327_744 + (model.vocab_size - 1024) * 128,
        train_seconds=seconds,
        tokens_per_second=last["tokens"] / seconds,
        peak_memory_bytes=412_000_000,
        memory_before_bytes=313_000_000,
        device=ENVIRONMENT["hardware"]["processor"],
        micro_batch_size=config.training.batch_size,
        deterministic=True,
        code={"train": "abcdef0123456789", "model": "0123456789abcdef", "torch": "2.13.0", "pydantic": "2.14.3"},
        environment=Environment.model_validate(ENVIRONMENT),
    )


def fabricate_measurements(
    folder: Path, model: dict[str, Any] = MODEL, batch_size: int = 8, speeds: dict[int, float] | None = None
) -> None:
    """Write model_measurements.json and batch_sizes.json of a model, in round numbers that no real model has.

    `speeds` are tokens per second by batch size.
    """
    config = ModelConfig(vocab_size=1024, **model)
    machine = {"device": ENVIRONMENT["hardware"]["processor"], "threads": 1, "precision": "float32"}
    step = {"parameters": 1000, "parameter_bytes": 4000, "gradient_bytes": 4000, "moment_bytes": 8000}
    step |= {"forward_flops": 2_000_000}
    values = [
        ("logits", "loss", 600, 0, "the loss needs their log-softmax alone"),
        ("log-softmax", "loss", 600, 600, ""),
        ("inputs of the RMSNorms", "norms", 0, 300, "the norm needs them"),
    ]
    names = ("name", "component", "handout_bytes", "saved_bytes", "reason")
    rows = [dict(zip(names, value, strict=True)) for value in values]
    activations = {"activations": rows, "handout_bytes": 1200, "saved_bytes": 900}
    measured = {"step_flops": 5_000_000, "saved_bytes": 1000, "matmul_flops_per_second": 1e9}
    measured |= {"saved_bytes_by_component": {"loss": 600, "norms": 400}}
    predicted = {"step_flops": 6_000_000, "activations": activations}
    write(
        folder / "model_measurements.json",
        {"model": config.model_dump(), "batch_size": batch_size, **machine}
        | {"predicted": step | predicted, "measured": step | measured},
    )
    speeds = speeds or {2**k: 6400 * 2**k for k in range(4)}
    doublings = [
        {
            "batch_size": size,
            "steps": 5,
            "step_seconds": size * config.context_length / speed,
            "tokens_per_second": speed,
            "memory_bytes": 20_000 + 1000 * size,
        }
        for size, speed in speeds.items()
    ]
    lines = {"predicted": (18_000, 800, 1200), "handout": (16_000, 2000, 999)}
    names = ("fixed_bytes", "bytes_per_sequence", "largest_batch_size")
    write(
        folder / "batch_sizes.json",
        {name: dict(zip(names, line, strict=True)) for name, line in lines.items()}
        | {"model": config.model_dump(), **machine, "memory_limit_bytes": 10**9, "sizes": doublings}
        | {"largest_batch_size": max(speeds), "estimated_largest_batch_size": 4 * max(speeds), "stop_reason": "time"},
    )


def skip_drawing(patch: pytest.MonkeyPatch) -> None:
    """Let all figures be empty, which takes no time."""
    drawing = Drawing('<svg viewBox="0 0 1 1"></svg>', "x\n")
    for module in ("plots.experiment", "cards", "page"):
        patch.setattr(f"lmpipe.report.{module}.draw", lambda *arguments, **options: drawing)


def write(path: Path, value: Any) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def fabricate_records(results: Results) -> None:
    """Write the records of provenance of the corpora, the token files, the runs, and the plots that are there.

    Each job takes two seconds; two run at a time.
    """
    starts = (f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000+00:00" for second in count())

    def record(folder: str, verb: str, inputs: list[str], outputs: list[str], **facts: Any) -> None:
        write_record(results.folder, folder, verb, inputs, outputs, started_at=next(starts), **facts)

    for corpus in results.study.corpora:
        record(f"corpora/{corpus}", "make-corpus", [], ["corpus.json"])
        text = [f"corpora/{corpus}/corpus.json"]
        record(f"tokens/{corpus}", "encode", text, ["train.json"], name="train.provenance")
    for experiment in results.experiments():
        for run in experiment.runs:
            folder, tokens = run.folder.relative_to(results.folder).as_posix(), f"tokens/{run.config.corpus}"
            seconds = {"seeds": [run.seed], "train_seconds": run.summary.train_seconds}
            record(folder, "train", [f"{tokens}/train.json"], ["summary.json"], **seconds)
        read = [f"{run.folder.relative_to(results.folder).as_posix()}/summary.json" for run in experiment.runs]
        record(f"experiments/{experiment.name}", "plot-experiment", read, ["table.csv"])


def write_record(
    base: Path, folder: str, verb: str, inputs: list[str], outputs: list[str], name: str = "provenance", **facts: Any
) -> None:
    """Write the record of one job that took two seconds; inputs are paths below the study's folder."""
    checksum = {"bytes": 1, "sha256": "0" * 64}
    up = "../" * (folder.count("/") + 1)
    record = {
        "command": verb,
        "arguments": {},
        "settings": {},
        "seeds": [],
        "inputs": {up + path: checksum for path in inputs},
        "outputs": dict.fromkeys(outputs, checksum),
        "code": {},
        "started_at": "2026-01-01T00:00:00+00:00",
        "wall_seconds": 2.0,
        "peak_memory_bytes": 10**8,
        **ENVIRONMENT,
    }
    write(base / folder / f"{name}.json", record | facts)
