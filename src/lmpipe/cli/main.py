"""The command line: one subcommand for each rule of the workflow. It parses and calls; the work is done elsewhere."""

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lmpipe import __version__
from lmpipe.errors import InputError
from lmpipe.io.files import MAX_INT_DIGITS, STANDARD_OUTPUT, parse_json
from lmpipe.io.progress import log

Arguments = argparse.Namespace
# What the record of provenance says of a verb's work beyond the usual, such as the files that it read.
Facts = dict[str, Any] | None
# What to say of the system's errors: expected, found, remedy.
SYSTEM_ERRORS = {
    errno.ENOENT: "expected a file or folder, found none; check the path",
    errno.EISDIR: "expected a file, found a folder; name a file",
    errno.ENOTDIR: "expected a folder above it, found a file; name another path",
    errno.EEXIST: "expected a folder, found a file; name another path",
    errno.EACCES: "expected the permission to use it, found none; change it with chmod, or name another path",
    errno.EPERM: "expected the permission to use it, found none; change it with chmod, or name another path",
    errno.EROFS: "expected a disk to write to, found one that can only be read; name another path",
    errno.ENAMETOOLONG: "expected a name of at most 255 bytes, found a longer one; shorten it",
    errno.ENOSPC: "expected room to write, found a full disk; make space and give the same command again",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; bad input ends with one line on standard error and exit code 1."""
    parsed = make_parser().parse_args(arguments)
    try:
        check_settings(parsed)
        run_verb(parsed)
    except InputError as error:
        fail(f"lmpipe {parsed.verb}: {error}")
    except BrokenPipeError:
        # The reader of standard output has left; nothing more can reach it, the interpreter's last flush included.
        close_standard_output()
        sys.exit(1)
    except OSError as error:
        if error.filename == STANDARD_OUTPUT:
            close_standard_output()
        place = f"{error.filename}: " if error.filename else ""
        fail(f"lmpipe {parsed.verb}: {place}{SYSTEM_ERRORS.get(error.errno, error.strerror or error)}")


def fail(message: str) -> NoReturn:
    """End with one line and exit code 1, whatever the message is made of and whether or not it can be written."""
    log("\\n".join(message.splitlines()))
    sys.exit(1)


def close_standard_output() -> None:
    """Let what still waits for standard output go nowhere, without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_verb(parsed: Arguments) -> None:
    """Run a subcommand; one that makes results leaves the record of their provenance beside them."""
    from lmpipe.provenance.code_digest import COMPUTED_BY

    if parsed.verb not in COMPUTED_BY or parsed.output is None:
        parsed.run(parsed)
        return
    from lmpipe.provenance.job_records import run_recorded

    given = {name: value for name, value in vars(parsed).items() if name not in ("verb", "run", "parser")}
    changed = {name: value for name, value in given.items() if value != parsed.parser.get_default(name)}
    run_recorded(parsed.verb, changed, lambda: parsed.run(parsed))


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line and exit code 1, like every other of this program."""

    def error(self, message: str) -> NoReturn:
        """End with the complaint and where to read more."""
        fail(f"{self.prog}: {message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = Parser(
        prog="lmpipe",
        description="From raw text to a finished study of small language models. The workflow calls one subcommand for "
        "each of its rules (snakemake --cores N); each of them also works alone.",
    )
    parser.add_argument("--version", action="version", version=f"lmpipe {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Callable[[Arguments], Facts], text: str) -> Callable[..., Any]:
        added = verbs.add_parser(name, help=text.split(". ")[0].rstrip("."), description=text)
        added.set_defaults(run=run, parser=added)
        return added.add_argument

    add = verb("estimate", estimate, "Tell what a study will cost: downloads, disk, memory, training FLOPs and time.")
    add("study", help="the study file, such as config/tinystories.yaml")
    add("--cores", type=positive, default=os.cpu_count(), help="CPU cores to reckon with (default: those here)")

    add = verb("download", download, "Fetch a text, check it, and give it its name only then.")
    add("--settings", type=json_text, required=True, help='JSON: {"url", "bytes", "sha256", "text_bytes"}')
    add("--output", required=True, help="the text file; one that is there is checked and stays")

    add = verb("make-corpus", make_corpus, "Make a corpus: train.txt, valid.txt and corpus.json.")
    add("--settings", type=json_text, required=True, help="JSON: the corpus's block of the study, with its name")
    add("--output", required=True, help="the corpus's folder")
    add("--threads", type=positive, default=1, help="processes that read packages (default 1)")

    add = verb("count-pretokens", count_pretokens, "Count the unique pre-tokens of one shard of a text.")
    add("--text", required=True, help="the text file")
    add("--shard", type=int, default=0, help="which shard, from 0 (default 0)")
    add("--shards", type=positive, default=1, help="how many shards there are (default 1)")
    add("--output", required=True, help="the .npz file; a .json file with times is written beside it")

    add = verb("train-bpe", train_bpe, "Train a byte-level BPE tokenizer from counts of pre-tokens.")
    add("--counts", nargs="+", required=True, help=".npz files of count-pretokens, one for each shard")
    add("--corpus", required=True, help="the corpus's name, for the record")
    add("--vocab-size", type=positive, required=True, help="ids: 256 bytes, special tokens and merges")
    add("--output", required=True, help="the tokenizer's folder; its last part is the tokenizer's name")

    add = verb("encode-corpus", encode_corpus, "Encode a text, or one shard of it, into a file of token ids.")
    add("--text", required=True, help="the text file")
    add("--tokenizer", required=True, help="the tokenizer's folder")
    add("--shard", type=int, default=0, help="which shard, from 0 (default 0)")
    add("--shards", type=positive, default=1, help="how many shards there are (default 1)")
    add("--output", required=True, help="the .bin file; a .json file that describes it is written beside it")

    add = verb("join-tokens", join_tokens, "Join the files of token ids of all shards of a text.")
    add("--tokens", nargs="+", required=True, help=".bin files of encode-corpus, one for each shard, in their order")
    add("--output", required=True, help="the .bin file; a .json file that describes it is written beside it")

    add = verb("compare-tokenizers", evaluate_tokenizers, "Measure every tokenizer on every corpus.")
    add("--settings", type=json_text, required=True, help='JSON: {"corpora": [...], "tokenizers": {name: corpus}}')
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="the .json file")

    add = verb("explore-unicode", explore_unicode, "Run the code of the Unicode problems and write down what it does.")
    add("--output", required=True, help="the .json file")

    add = verb("account-model", account_model, "Account for a model's parameters, FLOPs and memory.")
    add("--settings", type=json_text, required=True, help='JSON: {"name", "model", "device_memory_gb"}')
    add("--output", required=True, help="the .json file")

    add = verb(
        "measure-model",
        measure_model,
        "Measure a training step of a model: parameters, FLOPs, bytes by part, and the device's ceiling.",
    )
    add("--settings", type=json_text, required=True, help='JSON: {"model", "training"}')
    add("--output", required=True, help="the .json file")
    add_machine(add)

    add = verb("tune-sgd-toy", tune_sgd_toy, "Train the SGD toy at four learning rates.")
    add("--output", required=True, help="the .csv file")

    add = verb(
        "measure-batch-sizes",
        measure_batch_sizes,
        "Time a training step of each batch size, doubling up to the largest that fits. Nothing is trained.",
    )
    add("--settings", type=json_text, required=True, help='JSON: {"model", "training"}')
    add("--output", required=True, help="the .json file")
    add_machine(add)

    add = verb("train", train, "Train one model. An interrupted run goes on; a run already in the store is copied.")
    add("--settings", type=json_text, required=True, help="JSON: the run's settings, as the workflow resolves them")
    add("--results", required=True, help="the study's results folder, with tokens/, tokenizers/ and store/")
    add("--best", help="best.json of the experiment that the rate is taken from")
    add("--output", required=True, help="the run's folder")
    add_machine(add)
    add("--processes", type=positive, default=1, help="processes that share every batch (default 1)")
    add("--gpus", type=positive, default=1, help="GPUs with a process each; without a GPU one process (default 1)")
    add("--checkpoint-seconds", type=seconds, help="time from one checkpoint to the next (default 30; 0: every step)")
    add(
        "--runs-per-gpu",
        type=positive,
        default=1,
        help="how many runs may share a GPU (default 1: it waits for its own)",
    )

    add = verb("select-best", select_best, "Find the best finished grid point of an experiment.")
    add_experiment(add)
    add("--output", required=True, help="the .json file")

    add = verb(
        "generate", generate, "Generate text from a run: a grid of samples for the report, or a prompt's continuation."
    )
    add("--run", required=True, dest="run_folder", help="the run's folder")
    add("--settings", type=json_text, help="JSON: the study's samples block, for the report's grid")
    add("--texts", nargs=2, metavar=("TRAIN", "VALID"), help="the corpus's texts, which fluency is measured against")
    add("--output", help="the .json file of the grid")
    add("--prompt", help="continue this text on standard output instead")
    add("--temperature", type=float, default=1.0, help="0 always takes the likeliest token (default 1)")
    add("--top-p", type=float, default=1.0, help="keep the likeliest tokens of this total probability (default 1)")
    add("--max-new-tokens", type=positive, default=256, help="stop there, or at the end of text (default 256)")
    add("--seed", type=int, default=0, help="of the random draws (default 0)")

    add = verb("export", export, "Write a run as a folder that Hugging Face transformers loads: model and tokenizer.")
    add("--run", required=True, dest="run_folder", help="the run's folder")
    add("--to", required=True, help="the new folder; an earlier export there is replaced")

    add = verb("plot-experiment", plot_experiment, "Draw an experiment's curves and final losses, and write its table.")
    add_experiment(add)
    add("--output", required=True, help="the experiment's folder")

    add = verb("find", find, "Answer every problem from the results: findings.json.")
    add("--settings", type=json_text, required=True, help="JSON: the study")
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="findings.json")

    add = verb("report", report, "Make the report of a study, complete or not, from the results that exist.")
    add("study", nargs="?", help="the study's results folder, or its file; the page is report.html there")
    add("--settings", type=json_text, help="JSON: the study, if it is complete")
    add("--results", help="the study's results folder")
    add("--output", help="report.html")

    add = verb("collect-provenance", collect_provenance, "Collect the records of all of a study's jobs in one file.")
    add("--settings", type=json_text, required=True, help="JSON: the study")
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="provenance.json")

    add = verb("verify", verify, "Recompute the checksum of every result of a study. Exit code 1 where not all agree.")
    add("results", help="the study's results folder, such as results/laptop")

    add = verb("status", status, "Follow a study in the terminal: its runs, their latest losses, the time left.")
    add("study", nargs="?", help="the study's results folder, or its file (default: the one in results/ begun last)")
    add("--once", action="store_true", help="show it once; so it is where standard output is no terminal")

    add = verb("compare", compare, "Compare two studies: which findings moved, by how much, and what differs in them.")
    add("first", help="a study's results folder, such as results/laptop")
    add("second", help="another one")
    add("--output", help="also write it to this file: .json for programs, .md for people")

    add = verb(
        "forget", forget, "Empty a study's store of runs, so that they are trained anew when they are next asked for."
    )
    add("results", help="the study's results folder, such as results/laptop")
    return parser


def add_experiment(add: Callable[..., Any]) -> None:
    """The arguments of verbs that read the runs of one experiment."""
    add("--settings", type=json_text, required=True, help='JSON: {"experiment", "runs": [[name, seed], ...]}')
    add("--results", required=True, help="the study's results folder")


def add_machine(add: Callable[..., Any]) -> None:
    """The arguments of verbs that train."""
    add("--threads", type=positive, default=1, help="threads of torch (default 1; more may change the last digits)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best one found)")


def json_text(text: str) -> Any:
    """Read a JSON argument."""
    try:
        # Null would be taken for an option that was not given.
        if (value := parse_json(text)) is None:
            raise ValueError("null says nothing")
        return value
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, found {text[:40]!r} ({error})") from None


def check_settings(given: Arguments) -> None:
    """Raise InputError unless --settings has the shape that its verb relies on."""
    if getattr(given, "settings", None) is not None:
        from lmpipe.study.documents import SETTINGS, check_shape

        check_shape(given.settings, SETTINGS[given.verb], "--settings", "correct it")


def positive(text: str) -> int:
    """Read a whole number of at least one."""
    if not text.isdecimal() or len(text) > MAX_INT_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text[:MAX_INT_DIGITS]!r}")
    return int(text)


def seconds(text: str) -> float:
    """Read a time in seconds."""
    try:
        if 0 <= (value := float(text)) < math.inf:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected seconds, found {text[:MAX_INT_DIGITS]!r}")


def estimate(given: Arguments) -> None:
    """Run `lmpipe estimate`."""
    from lmpipe.planning.estimate import estimate, read_plan, table

    print(table(estimate(read_plan(given.study), given.cores)))


def download(given: Arguments) -> None:
    """Run `lmpipe download`."""
    from lmpipe.data.download import download
    from lmpipe.study.corpora import TextFile

    download(TextFile.model_validate(given.settings), given.output)


def make_corpus(given: Arguments) -> Facts:
    """Run `lmpipe make-corpus`."""
    from pydantic import TypeAdapter

    from lmpipe.data.corpus import make_corpus
    from lmpipe.study.corpora import Corpus

    corpus = TypeAdapter(Corpus).validate_python(given.settings["corpus"])
    make_corpus(given.settings["name"], corpus, given.output, given.threads)
    return {"inputs": corpus.text_paths()}


def count_pretokens(given: Arguments) -> Facts:
    """Run `lmpipe count-pretokens`."""
    from lmpipe.tokenizer.pretoken_counts import count_shard

    count_shard(given.text, given.shard, given.shards, given.output, Path(given.output).with_suffix(".json"))
    return {"inputs": [given.text]}


def train_bpe(given: Arguments) -> Facts:
    """Run `lmpipe train-bpe`."""
    from lmpipe.tokenizer.bpe_training import train_tokenizer

    train_tokenizer(given.counts, given.output, Path(given.output).name, given.corpus, given.vocab_size)
    return {"inputs": [*given.counts, *(Path(counts).with_suffix(".json") for counts in given.counts)]}


def encode_corpus(given: Arguments) -> Facts:
    """Run `lmpipe encode-corpus`."""
    from lmpipe.data.encode import encode_file
    from lmpipe.tokenizer.tokenizer import Tokenizer

    folder = Path(given.tokenizer)
    json_path = Path(given.output).with_suffix(".json")
    tokenizer = Tokenizer.from_folder(folder)
    encode_file(given.text, tokenizer, given.output, json_path, folder.name, given.shard, given.shards)
    return {"inputs": [given.text, folder]}


def join_tokens(given: Arguments) -> Facts:
    """Run `lmpipe join-tokens`."""
    from lmpipe.data.encode import concat_shards
    from lmpipe.provenance.job_records import facts_of_joining

    facts = facts_of_joining(given.tokens)
    concat_shards(given.tokens, given.output, Path(given.output).with_suffix(".json"))
    return facts


def evaluate_tokenizers(given: Arguments) -> Facts:
    """Run `lmpipe compare-tokenizers`."""
    from lmpipe.io.files import write_json
    from lmpipe.tokenizer.evaluation import evaluate_tokenizers

    results = Path(given.results)
    write_json(given.output, evaluate_tokenizers(results, given.settings["corpora"], given.settings["tokenizers"]))
    corpora = [results / "corpora" / corpus for corpus in given.settings["corpora"]]
    tokenizers = [results / kind / name for kind in ("tokenizers", "tokens") for name in given.settings["tokenizers"]]
    return {"inputs": corpora + tokenizers}


def explore_unicode(given: Arguments) -> None:
    """Run `lmpipe explore-unicode`."""
    from lmpipe.io.files import write_json
    from lmpipe.tokenizer.unicode_demo import demonstrate_unicode

    write_json(given.output, demonstrate_unicode())


def account_model(given: Arguments) -> None:
    """Run `lmpipe account-model`."""
    from lmpipe.model import torch_counts
    from lmpipe.study.documents import model_of_settings
    from lmpipe.study.settings import ModelConfig

    model = model_of_settings(ModelConfig, "model", given.settings["model"])
    torch_counts.account_model(given.settings["name"], model, given.settings["device_memory_gb"] * 1e9).write(
        given.output
    )


def measure_model(given: Arguments) -> None:
    """Run `lmpipe measure-model`."""
    from lmpipe.study.documents import model_of_settings
    from lmpipe.study.settings import ModelConfig, TrainingSettings
    from lmpipe.training.profiling import profile_step

    model = model_of_settings(ModelConfig, "model", given.settings["model"])
    training = model_of_settings(TrainingSettings, "training", given.settings["training"])
    profile_step(model, training, threads=given.threads, device=given.device).write(given.output)


def tune_sgd_toy(given: Arguments) -> None:
    """Run `lmpipe tune-sgd-toy`."""
    from lmpipe.training.sgd_toy import run_sgd_toy

    run_sgd_toy(given.output)


def measure_batch_sizes(given: Arguments) -> None:
    """Run `lmpipe measure-batch-sizes`."""
    from lmpipe.study.documents import model_of_settings
    from lmpipe.study.settings import ModelConfig, TrainingSettings
    from lmpipe.training.batch_size_benchmark import benchmark_batch_sizes

    model = model_of_settings(ModelConfig, "model", given.settings["model"])
    training = model_of_settings(TrainingSettings, "training", given.settings["training"])
    benchmark_batch_sizes(model, training, threads=given.threads, device=given.device).write(given.output)


def train(given: Arguments) -> Facts:
    """Run `lmpipe train`."""
    from lmpipe.provenance.job_records import facts_of_training
    from lmpipe.study.planned_run import PlannedRun
    from lmpipe.training.run import train

    machine = {"threads": given.threads, "device": given.device, "processes": given.processes, "gpus": given.gpus}
    machine |= {"runs_per_gpu": given.runs_per_gpu}
    options = {"best_path": given.best, **machine}
    if given.checkpoint_seconds is not None:
        options["checkpoint_seconds"] = given.checkpoint_seconds
    is_new = train(PlannedRun.model_validate(given.settings), given.results, given.output, **options)
    return facts_of_training(given.output, given.best, is_new)


def select_best(given: Arguments) -> Facts:
    """Run `lmpipe select-best`."""
    from lmpipe.analysis.ranking import select_best
    from lmpipe.analysis.results import read_experiment

    experiment = read_experiment(given.results, given.settings["experiment"], given.settings["runs"])
    select_best(experiment).write(given.output)
    return {"inputs": [run.folder / name for run in experiment.runs for name in ("config.json", "summary.json")]}


def generate(given: Arguments) -> Facts:
    """Run `lmpipe generate`."""
    from lmpipe.generation.samples import write_samples
    from lmpipe.generation.sampling import stream_to_stdout

    if given.prompt is not None:
        stream_to_stdout(
            given.run_folder, given.prompt, given.temperature, given.top_p, given.max_new_tokens, given.seed
        )
    elif given.settings is None or given.texts is None or given.output is None:
        raise InputError("expected --prompt TEXT, or all of --settings, --texts and --output; give one or the other")
    else:
        from lmpipe.study.planned_run import PlannedRun
        from lmpipe.study.schema import SamplesSettings

        run = PlannedRun.model_validate(given.settings["run"])
        samples = SamplesSettings.model_validate(given.settings["samples"])
        write_samples(samples, run, given.run_folder, *given.texts, given.output)
    return {"inputs": [given.run_folder, *(given.texts or [])]}


def export(given: Arguments) -> None:
    """Run `lmpipe export`."""
    from lmpipe.generation.huggingface import export

    export(given.run_folder, given.to)


def plot_experiment(given: Arguments) -> Facts:
    """Run `lmpipe plot-experiment`."""
    from lmpipe.analysis.results import read_experiment
    from lmpipe.report.plots.experiment import plot_experiment

    experiment = read_experiment(given.results, given.settings["experiment"], given.settings["runs"])
    plot_experiment(experiment, given.output)
    return {"inputs": [run.folder for run in experiment.runs]}


def find(given: Arguments) -> Facts:
    """Run `lmpipe find`."""
    from lmpipe.analysis.problems.registry import analyze_all
    from lmpipe.analysis.results import Results
    from lmpipe.planning.plan import load_plan
    from lmpipe.planning.stages import records_of

    plan = load_plan(given.settings, "--settings")
    results = Results(given.results, plan.study, plan.run_keys())
    analyze_all(results).write(given.output)
    earlier = {verb: paths for verb, paths in records_of(plan).items() if verb not in ("find", "report")}
    return {"inputs": [results.folder / path for paths in earlier.values() for path in paths]}


def report(given: Arguments) -> Facts:
    """Run `lmpipe report`."""
    from lmpipe.planning.plan import load_plan
    from lmpipe.planning.session import StudySession, find_study
    from lmpipe.report.page import build_report

    if given.study is not None:
        print(build_report(find_study(given.study)))
        return None
    if None in (given.settings, given.results, given.output):
        raise InputError("lmpipe report", "names no study", "give a results folder, such as results/laptop")
    results = Path(given.results)
    plan = load_plan(given.settings, "--settings")
    build_report(StudySession(plan, results), Path(given.output), require_complete=True)
    experiments = [results / "experiments" / experiment for experiment in given.settings["experiments"]]
    return {"inputs": [results / "findings.json", *experiments]}


def collect_provenance(given: Arguments) -> None:
    """Run `lmpipe collect-provenance`."""
    from lmpipe.planning.plan import load_plan
    from lmpipe.planning.stages import records_of
    from lmpipe.provenance.job_records import collect_records

    paths = [path for paths in records_of(load_plan(given.settings, "--settings")).values() for path in paths]
    collect_records(paths, given.settings, given.results, given.output)


def verify(given: Arguments) -> None:
    """Run `lmpipe verify`."""
    from lmpipe.provenance.checksums import verify

    if not verify(given.results):
        sys.exit(1)


def status(given: Arguments) -> None:
    """Run `lmpipe status`."""
    from lmpipe.report.monitor import status

    status(given.study, given.once)


def compare(given: Arguments) -> None:
    """Run `lmpipe compare`."""
    from lmpipe.report.compare import compare

    compare(given.first, given.second, given.output)


def forget(given: Arguments) -> None:
    """Run `lmpipe forget`."""
    from lmpipe.training.run_store import clear

    clear(given.results)


if __name__ == "__main__":
    main()
