"""Commands for texts: downloads, corpora, tokenizers and token files."""

from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.cli.arguments import Args, Commands, add_command, add_results, add_shard, positive_int

if TYPE_CHECKING:
    from lmpipe.provenance.job_records import JobResult


def add_commands(commands: Commands) -> None:
    """Add the parsers of this module's commands."""
    add_text_commands(commands)
    add_tokenizer_commands(commands)


def add_text_commands(commands: Commands) -> None:
    """Add the parsers of `download` and `make-corpus`."""
    parser = add_command(
        commands,
        "download",
        run_download,
        "Download and verify a text file. A .gz file is decompressed.",
        "lmpipe download https://example.org/stories.txt.gz --output resources/stories.txt",
    )
    parser.add_argument("url", help="address of the file")
    parser.add_argument("--output", required=True, help="path of the text; an existing file is verified and kept")
    parser.add_argument("--bytes", type=positive_int, help="size of the file at the address")
    parser.add_argument("--sha256", help="checksum of the text")
    parser.add_argument("--text-bytes", type=positive_int, help="size of the text")

    parser = add_command(
        commands,
        "make-corpus",
        run_make_corpus,
        "Make a corpus of a study: train.txt, valid.txt and corpus.json.",
        "lmpipe make-corpus results/laptop stories",
    )
    add_results(parser)
    parser.add_argument("corpus", help="name of the corpus")
    parser.add_argument("--threads", type=positive_int, default=1, help="processes that read packages (default 1)")


def add_tokenizer_commands(commands: Commands) -> None:
    """Add the parsers of the commands for tokenizers and token files."""
    parser = add_command(
        commands,
        "count-pretokens",
        run_count_pretokens,
        "Count the unique pre-tokens of a text, or of one shard of it.",
        "lmpipe count-pretokens --text stories.txt --output counts.npz",
    )
    parser.add_argument("--text", required=True, help="text file")
    add_shard(parser)
    parser.add_argument("--output", required=True, help=".npz file; times are written to the .json file beside it")

    parser = add_command(
        commands,
        "train-bpe",
        run_train_bpe,
        "Train a byte-level BPE tokenizer from pre-token counts.",
        "lmpipe train-bpe --counts counts.npz --vocab-size 4096 --output tokenizers/stories",
    )
    parser.add_argument("--counts", nargs="+", required=True, help=".npz files of count-pretokens, one for each shard")
    parser.add_argument("--corpus", default="", help="name of the corpus, for the record")
    parser.add_argument("--vocab-size", type=positive_int, required=True, help="bytes, special tokens and merges")
    parser.add_argument("--output", required=True, help="folder of the tokenizer, whose name is that of the folder")

    parser = add_command(
        commands,
        "encode",
        run_encode,
        "Encode a text, or one shard of it, into a file of token ids.",
        "lmpipe encode --text stories.txt --tokenizer tokenizers/stories --output stories.bin",
    )
    parser.add_argument("--text", required=True, help="text file")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    add_shard(parser)
    parser.add_argument("--output", required=True, help=".bin file; the .json file beside it describes it")

    parser = add_command(
        commands,
        "concat-tokens",
        run_concat_tokens,
        "Concatenate the token files of all shards of a text.",
        "lmpipe concat-tokens --tokens shards/0.bin shards/1.bin --output train.bin",
    )
    parser.add_argument("--tokens", nargs="+", required=True, help=".bin files of encode, in the order of the shards")
    parser.add_argument("--output", required=True, help=".bin file; the .json file beside it describes it")

    parser = add_command(
        commands,
        "evaluate-tokenizers",
        run_evaluate_tokenizers,
        "Measure compression and throughput of every tokenizer of a study on every corpus.",
        "lmpipe evaluate-tokenizers results/laptop",
    )
    add_results(parser)

    parser = add_command(
        commands,
        "demonstrate-unicode",
        run_demonstrate_unicode,
        "Run the examples of the Unicode problems and write their results.",
        "lmpipe demonstrate-unicode --output unicode.json",
    )
    parser.add_argument("--output", required=True, help=".json file")


def run_download(args: Args) -> None:
    """Run `lmpipe download`."""
    from pydantic import ValidationError

    from lmpipe.data.download import download
    from lmpipe.io.validation import first_violation
    from lmpipe.study.corpora import TextFile

    declared = {name: getattr(args, name) for name in ("url", "bytes", "sha256", "text_bytes")}
    try:
        text = TextFile.model_validate(declared)
    except ValidationError as error:
        raise first_violation(error, declared).error("arguments") from None
    download(text, args.output)


def run_make_corpus(args: Args) -> "JobResult":
    """Run `lmpipe make-corpus`."""
    from lmpipe.data.corpus import make_corpus
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult

    plan, paths = read_study(args.results)
    corpus = plan.study.corpora[find_name("corpus", args.corpus, plan.study.corpora)]
    make_corpus(args.corpus, corpus, paths.corpus(args.corpus), args.threads)
    settings = {"name": args.corpus, **corpus.text_settings()}
    return JobResult(paths.corpus(args.corpus), corpus.text_paths(), settings)


def run_count_pretokens(args: Args) -> "JobResult":
    """Run `lmpipe count-pretokens`."""
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.tokenizer.pretoken_counts import count_shard

    count_shard(args.text, args.shard, args.shards, args.output, Path(args.output).with_suffix(".json"))
    return JobResult(Path(args.output), [args.text])


def run_train_bpe(args: Args) -> "JobResult":
    """Run `lmpipe train-bpe`."""
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.tokenizer.bpe_training import train_tokenizer

    train_tokenizer(args.counts, args.output, Path(args.output).name, args.corpus, args.vocab_size)
    return JobResult(Path(args.output), [*args.counts, *(Path(counts).with_suffix(".json") for counts in args.counts)])


def run_encode(args: Args) -> "JobResult":
    """Run `lmpipe encode`."""
    from lmpipe.data.encode import encode_file
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.tokenizer.tokenizer import Tokenizer

    folder, info_path = Path(args.tokenizer), Path(args.output).with_suffix(".json")
    tokenizer = Tokenizer.from_folder(folder)
    encode_file(args.text, tokenizer, args.output, info_path, folder.name, args.shard, args.shards)
    return JobResult(Path(args.output), [args.text, folder])


def run_concat_tokens(args: Args) -> "JobResult":
    """Run `lmpipe concat-tokens`."""
    from lmpipe.data.encode import concat_shards
    from lmpipe.provenance.job_records import concat_result

    result = concat_result(Path(args.output), args.tokens)
    concat_shards(args.tokens, args.output, Path(args.output).with_suffix(".json"))
    return result


def run_evaluate_tokenizers(args: Args) -> "JobResult":
    """Run `lmpipe evaluate-tokenizers`."""
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.tokenizer.evaluation import evaluate_tokenizers

    plan, paths = read_study(args.results)
    corpora, tokenizers = list(plan.study.corpora), {name: corpus for name, (corpus, _) in plan.tokenizers.items()}
    evaluate_tokenizers(paths.root, corpora, tokenizers).write(paths.tokenizer_evaluation)
    inputs = [*map(paths.corpus, corpora), *map(paths.tokenizer, tokenizers)]
    inputs += [paths.tokens(name, "train").parent for name in tokenizers]
    return JobResult(paths.tokenizer_evaluation, inputs, {"corpora": corpora, "tokenizers": tokenizers})


def run_demonstrate_unicode(args: Args) -> "JobResult":
    """Run `lmpipe demonstrate-unicode`."""
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.tokenizer.unicode_demo import demonstrate_unicode

    demonstrate_unicode().write(args.output)
    return JobResult(Path(args.output))
