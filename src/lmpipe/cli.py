"""The command line: one subcommand for each rule of the workflow. It parses and calls; the work is done elsewhere."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmpipe import InputError, __version__

Arguments = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; bad input ends with one line on standard error and exit code 1."""
    parsed = make_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except InputError as error:
        sys.exit(f"lmpipe {parsed.verb}: {error}")
    except BrokenPipeError:
        # The reader of standard output has left; nothing more can reach it, the interpreter's last flush included.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"lmpipe {parsed.verb}: {place}{error.strerror or error}")


def make_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="lmpipe",
        description="From raw text to a finished study of small language models. The workflow calls one subcommand for "
        "each of its rules (snakemake --cores N); each of them also works alone.",
    )
    parser.add_argument("--version", action="version", version=f"lmpipe {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Callable[[Arguments], None], text: str) -> Callable[..., Any]:
        added = verbs.add_parser(name, help=text.split(". ")[0].rstrip("."), description=text)
        added.set_defaults(run=run)
        return added.add_argument

    add = verb("download", download, "Fetch a text, check it, and give it its name only then.")
    add(
        "--settings", type=json_text, required=True, help='JSON: {"url", "sha256", "text_bytes"}; the last two may lack'
    )
    add("--output", required=True, help="the text file")

    add = verb("make-corpus", make_corpus, "Make a corpus: train.txt, valid.txt and corpus.json.")
    add("--settings", type=json_text, required=True, help="JSON: the corpus's block of the study, with its name")
    add("--texts", nargs="*", default=[], help="local files of a url corpus")
    add("--valid", nargs="*", default=[], help="local files for validation, where they are files of their own")
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

    add = verb("encode-corpus", encode_corpus, "Encode a text into a file of token ids.")
    add("--text", required=True, help="the text file")
    add("--tokenizer", required=True, help="the tokenizer's folder")
    add("--output", required=True, help="the .bin file; a .json file that describes it is written beside it")

    add = verb("compare-tokenizers", compare_tokenizers, "Measure every tokenizer on every corpus.")
    add("--settings", type=json_text, required=True, help='JSON: {"corpora": [...], "tokenizers": {name: corpus}}')
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="the .json file")

    add = verb("explore-unicode", explore_unicode, "Run the code of the Unicode problems and write down what it does.")
    add("--output", required=True, help="the .json file")

    add = verb("account-model", account_model, "Account for a model's parameters, FLOPs and memory.")
    add("--settings", type=json_text, required=True, help='JSON: {"name", "model", "device_memory_gb"}')
    add("--output", required=True, help="the .json file")

    add = verb("tune-sgd-toy", tune_sgd_toy, "Train the SGD toy at four learning rates.")
    add("--output", required=True, help="the .csv file")

    add = verb("train", train, "Train one model. An interrupted run goes on; a run already in the store is copied.")
    add("--settings", type=json_text, required=True, help="JSON: the run's settings, as the workflow resolves them")
    add("--results", required=True, help="the study's results folder, with tokens/, tokenizers/ and store/")
    add("--best", help="best.json of the experiment that the rate is taken from")
    add("--output", required=True, help="the run's folder")
    add("--threads", type=positive, default=1, help="threads of torch (default 1; more may change the last digits)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best one found)")

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

    add = verb("plot-experiment", plot_experiment, "Draw an experiment's curves and final losses, and write its table.")
    add_experiment(add)
    add("--output", required=True, help="the experiment's folder")

    add = verb("find", find, "Answer every problem from the results: findings.json and its figures.")
    add("--settings", type=json_text, required=True, help="JSON: the study")
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="findings.json")

    add = verb("report", report, "Assemble the report from findings.json and the figures.")
    add("--settings", type=json_text, required=True, help="JSON: the study")
    add("--results", required=True, help="the study's results folder")
    add("--output", required=True, help="report.html")

    add = verb(
        "forget", forget, "Empty a study's store of runs, so that they are trained anew when they are next asked for."
    )
    add("results", help="the study's results folder, such as results/laptop")
    return parser


def add_experiment(add: Callable[..., Any]) -> None:
    """The arguments of verbs that read the runs of one experiment."""
    add("--settings", type=json_text, required=True, help='JSON: {"experiment", "runs": [[name, seed], ...]}')
    add("--results", required=True, help="the study's results folder")


def json_text(text: str) -> Any:
    """Read a JSON argument."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, found {text[:40]!r} ({error})") from None


def positive(text: str) -> int:
    """Read a whole number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def download(given: Arguments) -> None:
    """Run `lmpipe download`."""
    from lmpipe.files import download

    download(given.settings["url"], given.output, given.settings.get("text_bytes"), given.settings.get("sha256"))


def make_corpus(given: Arguments) -> None:
    """Run `lmpipe make-corpus`."""
    from lmpipe.corpora import make_corpus

    make_corpus(given.settings, given.texts, given.valid, given.output, given.threads)


def count_pretokens(given: Arguments) -> None:
    """Run `lmpipe count-pretokens`."""
    from lmpipe.pretokenize import count_shard

    count_shard(given.text, given.shard, given.shards, given.output, Path(given.output).with_suffix(".json"))


def train_bpe(given: Arguments) -> None:
    """Run `lmpipe train-bpe`."""
    from lmpipe.bpe import train_tokenizer

    train_tokenizer(given.counts, given.output, Path(given.output).name, given.corpus, given.vocab_size)


def encode_corpus(given: Arguments) -> None:
    """Run `lmpipe encode-corpus`."""
    from lmpipe.tokenizer import Tokenizer
    from lmpipe.tokens import encode_file

    folder = Path(given.tokenizer)
    json_path = Path(given.output).with_suffix(".json")
    encode_file(given.text, Tokenizer.from_folder(folder), given.output, json_path, folder.name)


def compare_tokenizers(given: Arguments) -> None:
    """Run `lmpipe compare-tokenizers`."""
    from lmpipe.compression import compare_tokenizers
    from lmpipe.files import write_json

    write_json(given.output, compare_tokenizers(Path(given.results), **given.settings))


def explore_unicode(given: Arguments) -> None:
    """Run `lmpipe explore-unicode`."""
    from lmpipe.files import write_json
    from lmpipe.unicode import explore

    write_json(given.output, explore())


def account_model(given: Arguments) -> None:
    """Run `lmpipe account-model`."""
    from lmpipe.accounting import account
    from lmpipe.files import write_json
    from lmpipe.settings import ModelConfig

    model = ModelConfig.model_validate(given.settings["model"])
    write_json(given.output, account(given.settings["name"], model, given.settings["device_memory_gb"] * 1e9))


def tune_sgd_toy(given: Arguments) -> None:
    """Run `lmpipe tune-sgd-toy`."""
    from lmpipe.optim import tune_sgd_toy

    tune_sgd_toy(given.output)


def train(given: Arguments) -> None:
    """Run `lmpipe train`."""
    from lmpipe.train import train

    train(given.settings, given.results, given.output, best_path=given.best, threads=given.threads, device=given.device)


def select_best(given: Arguments) -> None:
    """Run `lmpipe select-best`."""
    from lmpipe.files import write_json
    from lmpipe.results import read_experiment, select_best

    write_json(given.output, select_best(read_experiment(given.results, **given.settings)))


def generate(given: Arguments) -> None:
    """Run `lmpipe generate`."""
    from lmpipe.generate import stream_to_stdout, write_samples

    if given.prompt is not None:
        stream_to_stdout(
            given.run_folder, given.prompt, given.temperature, given.top_p, given.max_new_tokens, given.seed
        )
    elif given.settings is None or given.texts is None or given.output is None:
        raise InputError("expected --prompt TEXT, or all of --settings, --texts and --output; give one or the other")
    else:
        write_samples(given.settings, given.run_folder, *given.texts, given.output)


def plot_experiment(given: Arguments) -> None:
    """Run `lmpipe plot-experiment`."""
    from lmpipe.experiment_plots import plot_experiment
    from lmpipe.results import read_experiment

    plot_experiment(read_experiment(given.results, **given.settings), given.output)


def find(given: Arguments) -> None:
    """Run `lmpipe find`."""
    from lmpipe.files import write_json
    from lmpipe.plan import load_plan
    from lmpipe.problems import find_all
    from lmpipe.results import Results

    plan = load_plan(given.settings, "--settings")
    results = Results(given.results, given.settings, plan.names_and_seeds())
    write_json(given.output, {"study": given.settings["study"], "problems": find_all(results)})


def report(given: Arguments) -> None:
    """Run `lmpipe report`."""
    from lmpipe.report import build_report

    build_report(given.results, Path(given.results) / "findings.json", given.output, given.settings)


def forget(given: Arguments) -> None:
    """Run `lmpipe forget`."""
    from lmpipe.store import forget

    forget(given.results)


if __name__ == "__main__":
    main()
