"""Commands for texts: downloads, corpora, tokenizers and token files."""

import os
from pathlib import Path

from lmpipe.cli.arguments import RESULTS, SHARD, Args, argument, command, positive_int
from lmpipe.errors import InputError
from lmpipe.io.files import JobResult

TEXT = argument("--text", required=True, help="text file")
SPECIAL_TOKENS = argument(
    "--special-token", action="append", default=[], help="a special token beside <|endoftext|>; may be repeated"
)
TOKEN_FILE = argument("--output", required=True, help=".bin file; the .json file beside it describes it")


@command(
    argument("address", help="https://... or hf://datasets/OWNER/NAME@REVISION/path"),
    argument("--output", required=True, help="path of the text; an existing file is verified and kept"),
    argument("--bytes", type=positive_int, help="size of the file at the address, in bytes"),
    argument("--sha256", help="SHA-256 of the text, unpacked"),
    argument("--text-bytes", type=positive_int, help="size of the text, unpacked, in bytes"),
    examples="lmpipe download https://example.org/stories.txt.gz --output resources/stories.txt",
)
def download(args: Args) -> None:
    """Download and verify a text file.

    A .gz, .xz or .zst file is unpacked.
    """
    from pydantic import ValidationError

    from lmpipe.data.download import download
    from lmpipe.io.validation import first_violation
    from lmpipe.study.text_files import TextFile, text_format

    declared = {name: getattr(args, name) for name in ("bytes", "sha256", "text_bytes")} | {"path": args.address}
    try:
        text = TextFile.model_validate(declared)
    except ValidationError as error:
        raise first_violation(error, declared).at("arguments") from None
    if text.is_compressed and text_format(args.output)[1]:
        raise InputError("--output", "names a compressed file, but the text is unpacked", "leave the ending out")
    download(text, args.output)


@command(
    RESULTS,
    argument("corpus", help="name of the corpus"),
    argument("--threads", type=positive_int, default=1, help="processes that read packages (default 1)"),
    examples="lmpipe make-corpus results/laptop stories",
)
def make_corpus(args: Args) -> JobResult:
    """Make a corpus of a study: train.txt, valid.txt and corpus.json."""
    from lmpipe.data.corpus import make_corpus
    from lmpipe.planning.session import read_study

    plan, paths = read_study(args.results)
    settings, corpus = plan.corpus_settings(args.corpus), plan.study.corpora[args.corpus]
    make_corpus(args.corpus, corpus, paths.corpus(args.corpus), args.threads)
    return JobResult(paths.corpus(args.corpus), corpus.text_paths(), settings)


@command(
    TEXT,
    *SHARD,
    SPECIAL_TOKENS,
    argument("--output", required=True, help=".npz file; times are written to the .json file beside it"),
    examples="lmpipe count-pretokens --text stories.txt --output counts.npz",
)
def count_pretokens(args: Args) -> JobResult:
    """Count the unique pre-tokens of a text, or of one shard of it."""
    from lmpipe.tokenizer.pretoken_counts import count_shard

    info_path = Path(args.output).with_suffix(".json")
    count_shard(args.text, args.shard, args.shards, args.output, info_path, args.special_token)
    return JobResult(Path(args.output), [args.text])


@command(
    argument("--counts", nargs="+", required=True, help=".npz files of count-pretokens, one for each shard"),
    argument("--corpus", default="", help="name of the corpus, for the record"),
    argument("--vocab-size", type=positive_int, required=True, help="bytes, special tokens and merges"),
    SPECIAL_TOKENS,
    argument("--output", required=True, help="folder of the tokenizer, which gives it its name"),
    examples="lmpipe train-bpe --counts counts.npz --vocab-size 4096 --output tokenizers/stories",
)
def train_bpe(args: Args) -> JobResult:
    """Train a byte-level BPE tokenizer from pre-token counts."""
    from lmpipe.tokenizer.bpe_training import train_tokenizer

    name = Path(os.path.abspath(args.output)).name
    train_tokenizer(args.counts, args.output, name, args.corpus, args.vocab_size, args.special_token)
    return JobResult(Path(args.output), [*args.counts, *(Path(counts).with_suffix(".json") for counts in args.counts)])


@command(
    argument("files", nargs="+", help="tokenizer.json, or vocab.json and merges.txt"),
    argument("--corpus", default="", help="name of the corpus, for the record"),
    argument("--vocab-size", type=positive_int, required=True, help="number of its ids"),
    argument("--output", required=True, help="folder of the tokenizer, which gives it its name"),
    examples="lmpipe import-tokenizer gpt2/tokenizer.json --vocab-size 50257 --output tokenizers/gpt2",
)
def import_tokenizer(args: Args) -> JobResult:
    """Import an existing byte-level BPE tokenizer with GPT-2's pattern."""
    from lmpipe.tokenizer.existing import import_tokenizer

    import_tokenizer(args.files, args.output, Path(os.path.abspath(args.output)).name, args.corpus, args.vocab_size)
    return JobResult(Path(args.output), args.files)


@command(
    TEXT,
    argument("--tokenizer", required=True, help="folder of the tokenizer"),
    *SHARD,
    TOKEN_FILE,
    examples="lmpipe encode --text stories.txt --tokenizer tokenizers/stories --output stories.bin",
)
def encode(args: Args) -> JobResult:
    """Encode a text, or one shard of it, into a file of token ids."""
    from lmpipe.data.encode import encode_file
    from lmpipe.tokenizer.tokenizer import Tokenizer

    folder, info_path = Path(args.tokenizer), Path(args.output).with_suffix(".json")
    tokenizer = Tokenizer.from_folder(folder)
    name = Path(os.path.abspath(folder)).name
    encode_file(args.text, tokenizer, args.output, info_path, name, args.shard, args.shards)
    return JobResult(Path(args.output), [args.text, folder])


@command(
    argument("tokenizer", help="folder of the tokenizer, or of a run"),
    argument("text", nargs="?", help="text to encode"),
    argument("--file", help="file to encode in place of a text"),
    argument("--ids", action="store_true", help="print the ids alone, in one line"),
    examples='lmpipe tokenize results/laptop/tokenizers/stories "Once upon a time"\n'
    "lmpipe tokenize results/laptop/runs/main_experiment/stories/seed1 --file mine.txt --ids",
)
def tokenize(args: Args) -> None:
    """Print the token ids of a text, each with the piece of the text that it stands for."""
    from lmpipe.generation.inference import open_tokenizer
    from lmpipe.io.progress import log
    from lmpipe.tokenizer.parallel_encoding import encode_path

    if (args.text is None) == (args.file is None):
        raise InputError("give a text or --file FILE")
    tokenizer = open_tokenizer(args.tokenizer)
    ids = (tokenizer.encode_to_numpy(args.text) if args.file is None else encode_path(args.file, tokenizer)).tolist()
    if args.ids:
        print(*ids)
        return
    for token_id in ids:
        print(token_id, tokenizer.show_token(token_id), sep="\t")
    size = sum(len(tokenizer.token_bytes(token_id)) for token_id in ids)
    log(f"{len(ids):,} tokens, {size:,} bytes")


@command(
    argument("--tokens", nargs="+", required=True, help=".bin files of encode, in the order of the shards"),
    TOKEN_FILE,
    examples="lmpipe concat-tokens --tokens shards/0.bin shards/1.bin --output train.bin",
)
def concat_tokens(args: Args) -> JobResult:
    """Concatenate the token files of all shards of a text."""
    from lmpipe.data.encode import concat_shards
    from lmpipe.provenance.job_records import concat_result

    result = concat_result(Path(args.output), args.tokens)
    concat_shards(args.tokens, args.output, Path(args.output).with_suffix(".json"))
    return result


@command(RESULTS, examples="lmpipe evaluate-tokenizers results/laptop")
def evaluate_tokenizers(args: Args) -> JobResult:
    """Measure compression and throughput of every tokenizer of a study on every corpus."""
    from lmpipe.planning.session import read_study
    from lmpipe.tokenizer.evaluation import evaluate_tokenizers

    plan, paths = read_study(args.results)
    corpora, tokenizers = list(plan.study.corpora), plan.tokenizer_corpora()
    evaluate_tokenizers(paths.root, corpora, tokenizers).write(paths.tokenizer_evaluation)
    inputs = [*map(paths.corpus, corpora), *map(paths.tokenizer, tokenizers)]
    inputs += [paths.tokens(name, "train").parent for name in tokenizers]
    return JobResult(paths.tokenizer_evaluation, inputs, plan.evaluation_settings())


@command(
    RESULTS,
    argument("corpus", help="name of the corpus"),
    examples="lmpipe yardsticks results/laptop stories",
)
def yardsticks(args: Args) -> JobResult:
    """Measure n-gram tables and xz on a corpus of a study."""
    from lmpipe.data.yardsticks import measure_yardsticks
    from lmpipe.planning.session import read_study

    plan, paths = read_study(args.results)
    settings, output = plan.yardstick_settings(args.corpus), paths.yardsticks(args.corpus)
    measure_yardsticks(paths.root, args.corpus, args.corpus, plan.yardstick_budgets(args.corpus)).write(output)
    tokens = paths.tokens(args.corpus, "train").parent
    return JobResult(output, [paths.corpus(args.corpus), paths.tokenizer(args.corpus), tokens], settings)


@command(
    argument("--output", required=True, help=".json file"),
    examples="lmpipe demonstrate-unicode --output unicode.json",
)
def demonstrate_unicode(args: Args) -> JobResult:
    """Run the examples of the Unicode problems and write their results."""
    from lmpipe.tokenizer.unicode_demo import demonstrate_unicode

    demonstrate_unicode().write(args.output)
    return JobResult(Path(args.output))
