"""A tiny study on which every command works: its settings, the arguments of each command, and what each reads."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.model.accounting import expected_counts
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.planning.session import write_study
from lmpipe.planning.stages import BY_COMMAND, STAGES
from lmpipe.study.paths import StudyPaths
from tests.support.fake_results import skip_drawing
from tests.support.tiny_study import MODEL, TRAINING, tiny_text

STUDY = {
    "study": "tiny",
    "seeds": [0],
    "corpora": {
        "tiny": {
            "source": "files",
            "files": ["text.txt"],
            "valid_fraction": 0.1,
            "tokenizer": {"vocab_size": 270},
            "stands_for": "TinyStories",
        }
    },
    "model": MODEL,
    # Two batch sizes to time: a whole run has two sequences of tokens.
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
STUDY_FILE, TEXT, RESULTS = "tiny.yaml", "text.txt", "results/tiny"
RESOLVED = f"{RESULTS}/study.yaml"
CORPUS = f"{RESULTS}/corpora/tiny"
COUNTS = f"{RESULTS}/pretokens/tiny/0.npz"
TOKENIZER = f"{RESULTS}/tokenizers/tiny"
TOKENS = f"{RESULTS}/tokens/tiny"
RUN_ID = "sweep/max_lr=0.01/seed0"
RUN = f"{RESULTS}/runs/{RUN_ID}"
EXPERIMENT = f"{RESULTS}/experiments/sweep"
BEST = f"{EXPERIMENT}/best.json"
SHARDS = ["train-shards/0.bin", "train-shards/1.bin"]

# Arguments of each command, in the order in which data flows.
ARGUMENTS = {
    "estimate": [STUDY_FILE],
    "make-corpus": [RESULTS, "tiny"],
    "count-pretokens": ["--text", f"{CORPUS}/train.txt", "--output", COUNTS],
    "train-bpe": ["--counts", COUNTS, "--corpus", "tiny", "--vocab-size", "270", "--output", TOKENIZER],
    "import-tokenizer": [f"{TOKENIZER}/tokenizer.json", "--vocab-size", "270", "--output", "imported"],
    "encode": ["--text", f"{CORPUS}/train.txt", "--tokenizer", TOKENIZER, "--output", f"{TOKENS}/train.bin"],
    "concat-tokens": ["--tokens", *SHARDS, "--output", "concatenated.bin"],
    "evaluate-tokenizers": [RESULTS],
    "yardsticks": [RESULTS, "tiny"],
    "demonstrate-unicode": ["--output", f"{RESULTS}/unicode.json"],
    "account-models": [RESULTS],
    "sgd-toy": ["--output", f"{RESULTS}/learning_rate_tuning.csv"],
    "profile-model": [RESULTS, "--device", "cpu"],
    "benchmark-batch-sizes": [RESULTS, "--device", "cpu"],
    "select-best": [RESULTS, "sweep"],
    "train": [RESULTS, "tuned/baseline/seed0", "--device", "cpu"],
    "generate": [RESULTS, "tiny"],
    "evaluate": [RUN, f"{CORPUS}/valid.txt"],
    "tokenize": [TOKENIZER, "the sun"],
    "export": [RUN, "exported"],
    "plot-experiment": [RESULTS, "sweep"],
    "analyze": [RESULTS],
    "report": [RESULTS],
    "collect-provenance": [RESULTS],
    "verify": [RESULTS],
    "status": [RESULTS],
    "adopt": [RESULTS],
    "compare": [RESULTS, RESULTS],
    "log": [RESULTS, "--to", "tensorboard"],
    "prune": [RESULTS],
    "clear-runs": [RESULTS],
}
# Files that each command reads, with the kind of their content (tests.support.corruptions).
READS = {
    "estimate": {STUDY_FILE: "yaml"},
    "make-corpus": {RESOLVED: "yaml", TEXT: "text"},
    "count-pretokens": {f"{CORPUS}/train.txt": "text"},
    "train-bpe": {COUNTS: "npz", COUNTS.replace("npz", "json"): "json"},
    "import-tokenizer": {f"{TOKENIZER}/tokenizer.json": "json"},
    "encode": {f"{CORPUS}/train.txt": "text", f"{TOKENIZER}/vocab.json": "json"},
    "concat-tokens": {SHARDS[0]: "tokens", SHARDS[0].replace("bin", "json"): "json"},
    "evaluate-tokenizers": {f"{TOKENIZER}/merges.txt": "merges", f"{CORPUS}/valid.txt": "text"},
    "account-models": {RESOLVED: "yaml"},
    "profile-model": {RESOLVED: "yaml"},
    "benchmark-batch-sizes": {RESOLVED: "yaml"},
    "yardsticks": {f"{TOKENS}/valid.bin": "tokens", f"{CORPUS}/train.txt": "text"},
    "select-best": {f"{RUN}/summary.json": "json"},
    "train": {f"{TOKENS}/train.bin": "tokens", f"{TOKENS}/valid.json": "json", BEST: "json"},
    "generate": {f"{RUN}/config.json": "json", f"{RUN}/model.safetensors": "weights"},
    "evaluate": {f"{RUN}/model.safetensors": "weights", f"{RUN}/config.json": "json"},
    "tokenize": {f"{TOKENIZER}/merges.txt": "merges", f"{TOKENIZER}/vocab.json": "json"},
    "export": {f"{RUN}/model.safetensors": "weights", f"{TOKENIZER}/tokenizer.json": "json"},
    "plot-experiment": {f"{RUN}/metrics.csv": "csv", f"{RUN}/config.json": "json"},
    "analyze": {
        f"{RUN}/summary.json": "json",
        f"{TOKENIZER}/training.json": "json",
        f"{RESULTS}/tokenizer_experiments.json": "json",
        f"{RESULTS}/unicode.json": "json",
        f"{RESULTS}/yardsticks/tiny.json": "json",
        f"{RESULTS}/accounting/study.json": "json",
        f"{RESULTS}/model_measurements.json": "json",
        f"{RESULTS}/batch_sizes.json": "json",
        f"{RESULTS}/samples/tiny.json": "json",
        f"{RESULTS}/learning_rate_tuning.csv": "csv",
    },
    "report": {
        f"{RESULTS}/findings.json": "json",
        f"{RUN}/provenance.json": "json",
        f"{CORPUS}/corpus.json": "json",
    },
    "collect-provenance": {f"{TOKENIZER}/provenance.json": "json"},
    "verify": {f"{RESULTS}/SHA256SUMS": "text"},
    "status": {RESOLVED: "yaml"},
    "prune": {RESOLVED: "yaml"},
    "compare": {f"{RESULTS}/findings.json": "json", f"{RESULTS}/provenance.json": "json"},
}
# Inputs without which a command works: a problem is then reported as missing.
OPTIONAL = {"analyze": READS["analyze"].keys() - {f"{RUN}/summary.json"}}


def command(name: str) -> list[str]:
    """Return a command with arguments that it accepts in the folder of the tiny study."""
    return [name, *ARGUMENTS[name]]


def the_plan() -> Plan:
    """Return the plan of the tiny study, whose text is in the working directory."""
    return load_plan(STUDY, "the tiny study")


def outputs() -> dict[str, Path]:
    """Return an output of each command that makes one: the file that it writes, or the folder that it fills."""
    plan, paths = the_plan(), StudyPaths(Path(RESULTS))
    paths_by_command = {stage.command: next(iter(stage.outputs(plan, paths)), None) for stage in reversed(STAGES)}
    others = {
        "concat-tokens": Path("concatenated.bin"),
        "import-tokenizer": Path("imported"),
        "train": paths.run("tuned", "baseline", 0),
    }
    return {name: path for name, path in paths_by_command.items() if path} | others


def fills_folder(name: str) -> bool:
    """Return True if a command fills a folder; else it writes a file."""
    return name == "export" or BY_COMMAND[name].fills_folder


def shorten_measurements(patch: pytest.MonkeyPatch) -> None:
    """Replace what takes seconds: counts of real models, and timings of steps and products."""
    patch.setattr("lmpipe.model.torch_counts.count_with_torch", expected_counts)
    patch.setattr("lmpipe.training.profiling.count_torch_flops", lambda config, batch_size, backward=False: 1)
    patch.setattr("lmpipe.training.profiling.MATMUL_SECONDS", 0)
    patch.setattr("lmpipe.training.profiling.MATMUL_SIDE", {"cpu": 64})
    patch.setattr("lmpipe.training.profiling.MIN_TIMED_SECONDS", 0)


def make_whole_study(folder: Path) -> None:
    """Make the tiny study in a folder, by commands alone; its figures are empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shorten_measurements(patch)
        skip_drawing(patch)
        Path(TEXT).write_text(tiny_text(200, seed=0), encoding="utf-8")
        Path(STUDY_FILE).write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
        write_study(the_plan(), StudyPaths(Path(RESULTS)))
        commands = list(data_commands(the_plan(), RESULTS, "--device", "cpu"))
        for index, shard in enumerate(SHARDS):
            commands.append([*command("encode")[:-1], shard, "--shards", "2", "--shard", str(index)])
        used = {name for name, *_ in commands}
        commands.append(["plot-experiment", RESULTS, "tuned"])
        commands += [command(name) for name in ARGUMENTS if name in BY_COMMAND and name not in used]
        for arguments in commands:
            main(arguments)


def make_by_hand(study: dict[str, Any], folder: Path, until: str | None = None) -> Path:
    """Make tokenizers, tokens, runs and samples of a study by commands in this process; return its results folder.

    Commands from the first one named `until` on are left out.
    """
    plan, results = load_plan(study, "the study"), f"results/{study['study']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_study(plan, StudyPaths(Path(results)))
        for arguments in takewhile(lambda arguments: arguments[0] != until, data_commands(plan, results)):
            main(arguments)
    return folder / results


def data_commands(plan: Plan, results: str, *train_options: str) -> Iterator[list[str]]:
    """Yield the commands from the corpora to the samples of a study, without shards."""
    paths = StudyPaths(Path(results))
    for corpus in plan.study.corpora:
        yield ["make-corpus", results, corpus]
    for name, (corpus, vocab_size) in plan.tokenizers.items():
        counts, tokenizer = str(paths.pretokens(corpus, 0)), str(paths.tokenizer(name))
        yield ["count-pretokens", "--text", str(paths.text(corpus, "train")), "--output", counts]
        size = ["--vocab-size", str(vocab_size)]
        yield ["train-bpe", "--counts", counts, "--corpus", corpus, *size, "--output", tokenizer]
        for split in ("train", "valid"):
            text, tokens = str(paths.text(corpus, split)), str(paths.tokens(name, split))
            yield ["encode", "--text", text, "--tokenizer", tokenizer, "--output", tokens]
    sweeps = sorted({run.best_of for run in plan.runs} - {None})
    trainings = [(run.best_of is not None, ["train", results, run.id, *train_options]) for run in plan.runs]
    yield from (arguments for needs_best, arguments in trainings if not needs_best)
    yield from (["select-best", results, sweep] for sweep in sweeps)
    yield from (arguments for needs_best, arguments in trainings if needs_best)
    yield from (["generate", results, corpus] for corpus in plan.sampled_corpora())


def lmpipe(arguments: list[str], **streams: Any) -> subprocess.CompletedProcess:
    """Run a command in a new process, optionally with other standard streams."""
    return subprocess.run([sys.executable, "-m", "lmpipe.cli.main", *arguments], **streams)
