"""A tiny study that every verb can work on: its settings, and the arguments of each verb as the workflow gives them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.model.accounting import expected_counts
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.study.planned_run import PlannedRun
from tests.support.tiny_study import MODEL, TRAINING, tiny_text

STUDY = {
    "study": "tiny",
    "seeds": [0],
    "corpora": {
        "tiny": {
            "source": "url",
            "files": ["file:text.txt"],
            "valid_fraction": 0.1,
            "tokenizer": {"vocab_size": 270},
            "stands_for": "TinyStories",
        }
    },
    "model": MODEL,
    "training": TRAINING,
    "experiments": {
        "sweep": {"corpus": "tiny", "sweep": {"max_lr": [0.01, 0.02]}},
        "tuned": {"corpus": "tiny", "max_lr": {"best_of": "sweep"}, "runs": {"baseline": {}}},
    },
    "accounting": {"models": {}, "device_memory_gb": 80.0},
    "samples": {
        "models": {"tiny": "sweep/max_lr=0.01"},
        "prompts": ["the sun"],
        "max_new_tokens": 8,
        "temperature": [0.0, 1.0],
        "top_p": [1.0],
    },
}
STUDY_FILE = "study.yaml"
TEXT = "text.txt"
CORPUS = "results/corpora/tiny"
COUNTS = "results/pretokens/tiny/0.npz"
TOKENIZER = "results/tokenizers/tiny"
TOKENS = "results/tokens/tiny"
RUN = "results/runs/sweep/max_lr=0.01/seed0"
TUNED_RUN = "results/runs/tuned/baseline/seed0"
EXPERIMENT = "results/experiments/sweep"
BEST = f"{EXPERIMENT}/best.json"

TEXTS = {f"{CORPUS}/train.txt": "text", f"{CORPUS}/valid.txt": "text"}
TOKENIZER_FILES = {
    f"{TOKENIZER}/vocab.json": "json",
    f"{TOKENIZER}/merges.txt": "merges",
    f"{TOKENIZER}/tokenizer.json": "json",
}
TOKEN_FILES = {
    f"{TOKENS}/{split}.{ending}": kind
    for split in ("train", "valid")
    for ending, kind in (("bin", "tokens"), ("json", "json"))
}
SHARDS = ["train-shards/0.bin", "train-shards/1.bin"]
SHARD_FILES = {SHARDS[0]: "tokens"} | {
    SHARDS[0].replace("bin", ending): "json" for ending in ("json", "provenance.json")
}
RUN_FILES = {f"{RUN}/config.json": "json", f"{RUN}/summary.json": "json"}
METRICS = {f"{RUN}/metrics.csv": "csv"}
# What each verb reads, and of which kind that is.
READS = {
    "estimate": {STUDY_FILE: "yaml"},
    "make-corpus": {TEXT: "text"},
    "count-pretokens": {f"{CORPUS}/train.txt": "text"},
    "train-bpe": {COUNTS: "npz", COUNTS.replace("npz", "json"): "json"},
    "encode-corpus": {f"{CORPUS}/train.txt": "text"} | TOKENIZER_FILES,
    "join-tokens": SHARD_FILES,
    "compare-tokenizers": TEXTS | TOKENIZER_FILES | {f"{TOKENS}/train.json": "json"},
    "explore-unicode": {},
    "account-model": {},
    "tune-sgd-toy": {},
    "measure-model": {},
    "measure-batch-sizes": {},
    "select-best": RUN_FILES,
    "train": TOKEN_FILES | TOKENIZER_FILES | {BEST: "json"},
    "generate": RUN_FILES | {f"{RUN}/model.safetensors": "weights"} | TEXTS | TOKENIZER_FILES,
    "export": {f"{RUN}/config.json": "json", f"{RUN}/model.safetensors": "weights"} | TOKENIZER_FILES,
    "plot-experiment": RUN_FILES | METRICS,
    "find": RUN_FILES
    | {
        f"{CORPUS}/corpus.json": "json",
        f"{TOKENIZER}/training.json": "json",
        "results/tokenizer_experiments.json": "json",
        "results/unicode.json": "json",
        "results/accounting/study.json": "json",
        "results/model_measurements.json": "json",
        "results/batch_sizes.json": "json",
        "results/samples/tiny.json": "json",
        "results/learning_rate_tuning.csv": "csv",
    },
    "report": RUN_FILES
    | {
        "results/findings.json": "json",
        f"{CORPUS}/corpus.json": "json",
        f"{EXPERIMENT}/loss_by_step.svg": "svg",
        f"{EXPERIMENT}/loss_by_step.csv": "numbers of a plot",
        f"{RUN}/provenance.json": "json",
    },
    "collect-provenance": {
        f"{TOKENIZER}/provenance.json": "json",
        f"{TOKENS}/train.provenance.json": "json",
    },
    "verify": {"results/provenance.json": "json"},
    "status": {STUDY_FILE: "yaml"},
    "compare": {"results/findings.json": "json", "results/provenance.json": "json"},
    "forget": {},
}
# What a study may lack: then the report says that it is absent, or less is checked.
OPTIONAL = {
    "join-tokens": {"train-shards/0.provenance.json"},
    "compare-tokenizers": {f"{TOKENS}/train.json"},
    "report": {f"{RUN}/provenance.json"},
    "find": READS["find"].keys() - RUN_FILES - {f"{CORPUS}/corpus.json"},
}
# Where each verb writes: a file, or a folder.
WRITES = {
    "make-corpus": CORPUS,
    "count-pretokens": COUNTS,
    "train-bpe": TOKENIZER,
    "encode-corpus": f"{TOKENS}/train.bin",
    "join-tokens": "joined.bin",
    "compare-tokenizers": "results/tokenizer_experiments.json",
    "explore-unicode": "results/unicode.json",
    "account-model": "results/accounting/study.json",
    "tune-sgd-toy": "results/learning_rate_tuning.csv",
    "measure-model": "results/model_measurements.json",
    "measure-batch-sizes": "results/batch_sizes.json",
    "select-best": BEST,
    "train": TUNED_RUN,
    "generate": "results/samples/tiny.json",
    "export": "exported",
    "plot-experiment": EXPERIMENT,
    "find": "results/findings.json",
    "report": "results/report.html",
    "collect-provenance": "results/provenance.json",
}
FILLS_FOLDER = {"make-corpus", "train-bpe", "train", "export", "plot-experiment"}


def command(verb: str, output: str | None = None) -> list[str]:
    """A verb with arguments that it accepts, and another output where one is given. The text lies in this folder."""
    written = output or WRITES.get(verb)
    option = "--to" if verb == "export" else "--output"
    return [verb, *arguments_of(verb, the_plan()), *([option, written] if written else [])]


def the_plan() -> Plan:
    """The plan of the tiny study."""
    return load_plan(STUDY, "the tiny study")


def arguments_of(verb: str, plan: Plan) -> list[str]:
    """What a verb is given, but for the output."""
    in_results = ["--results", "results"]
    match verb:
        case "estimate":
            return [STUDY_FILE]
        case "make-corpus":
            return ["--settings", as_json({"name": "tiny", "corpus": STUDY["corpora"]["tiny"]})]
        case "count-pretokens":
            return ["--text", f"{CORPUS}/train.txt"]
        case "train-bpe":
            return ["--counts", COUNTS, "--corpus", "tiny", "--vocab-size", "270"]
        case "encode-corpus":
            return ["--text", f"{CORPUS}/train.txt", "--tokenizer", TOKENIZER]
        case "join-tokens":
            return ["--tokens", *SHARDS]
        case "compare-tokenizers":
            return ["--settings", as_json({"corpora": ["tiny"], "tokenizers": {"tiny": "tiny"}}), *in_results]
        case "account-model":
            model = plan.models["study"].model_dump(mode="json")
            return ["--settings", as_json({"name": "study", "model": model, "device_memory_gb": 80.0})]
        case "measure-batch-sizes" | "measure-model":
            model = plan.models["study"].model_dump(mode="json")
            # A run of two sequences: two sizes to time.
            training = TRAINING | {"total_tokens": 2 * MODEL["context_length"]}
            return ["--settings", as_json({"model": model, "training": training}), "--device", "cpu"]
        case "train":
            return [*run_arguments(plan.runs_by_experiment["tuned"][0]), "--best", BEST]
        case "select-best" | "plot-experiment":
            runs = plan.run_keys()["sweep"]
            return ["--settings", as_json({"experiment": "sweep", "runs": runs}), *in_results]
        case "generate":
            settings = {"samples": STUDY["samples"], "run": plan.sample_run("tiny").model_dump(mode="json")}
            return ["--run", RUN, "--texts", *TEXTS, "--settings", as_json(settings)]
        case "export":
            return ["--run", RUN]
        case "find" | "report" | "collect-provenance":
            return ["--settings", as_json(plan.study.model_dump(mode="json", exclude_none=True)), *in_results]
        case "status":
            return [STUDY_FILE]
        case "compare":
            return ["results", "results"]
        case "verify" | "forget":
            return ["results"]
        case _:
            return []


def as_json(value: Any) -> str:
    """The value of --settings."""
    return json.dumps(value)


def run_arguments(run: PlannedRun) -> list[str]:
    """The arguments of `lmpipe train` for a run, but for the output."""
    return ["--settings", run.model_dump_json(), "--results", "results", "--device", "cpu"]


def make_whole_study(folder: Path) -> None:
    """Make the tiny study in a folder with nothing but the verbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # They take seconds to find out what is of no account here.
        patch.setattr("lmpipe.tokenizer.unicode_demo.decodes", lambda decode, text: text.isascii())
        patch.setattr("lmpipe.model.torch_counts.count_with_torch", expected_counts)
        patch.setattr("lmpipe.training.profiling.MATMUL_SECONDS", 0)
        Path(TEXT).write_text(tiny_text(200, seed=0), encoding="utf-8")
        Path(STUDY_FILE).write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
        for verb in WRITES:
            for arguments in commands_of(verb):
                main(arguments)


def commands_of(verb: str) -> list[list[str]]:
    """The commands that make all results of a verb: both splits of the tokens, and the runs that it needs."""
    usual = command(verb)
    if verb == "encode-corpus":
        return [usual, [part.replace("train.", "valid.") for part in usual]]
    if verb == "join-tokens":
        encode = ["encode-corpus", *arguments_of("encode-corpus", the_plan()), "--shards", "2"]
        shards = [[*encode, "--shard", str(number), "--output", path] for number, path in enumerate(SHARDS)]
        return [*shards, usual]
    if verb == "plot-experiment":
        tuned = as_json({"experiment": "tuned", "runs": [["baseline", 0]]})
        return [usual, [verb, "--settings", tuned, *usual[3:-1], "results/experiments/tuned"]]
    if verb == "select-best":
        sweep = the_plan().runs_by_experiment["sweep"]
        return [*(["train", *run_arguments(run), "--output", f"results/{run.folder}"] for run in sweep), usual]
    return [usual]


def lmpipe(arguments: list[str], **streams: Any) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, since its standard streams are at stake."""
    return subprocess.run([sys.executable, "-m", "lmpipe.cli.main", *arguments], **streams)
