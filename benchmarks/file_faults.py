"""Mutated results: tokenizers, token files, counts, runs and checkpoints are read right, or refused with one line."""

import atexit
import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.faults import MARKER, Fault, LostError
from benchmarks.mutations import harm_bytes, harm_value
from lmpipe.analysis.ranking import select_best
from lmpipe.analysis.results import read_experiment, runs_table
from lmpipe.analysis.runs import Run
from lmpipe.data.encode import encode_file
from lmpipe.data.token_dataset import TokenDataset, get_batch
from lmpipe.errors import InputError
from lmpipe.generation.inference import load_run
from lmpipe.generation.sampling import stream
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.planned_run import PlannedRun, PlannedTraining
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.tokenizer.bpe_training import train_tokenizer
from lmpipe.tokenizer.pretoken_counts import count_shard
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.checkpoint import load_checkpoint, restore_tensors, save_checkpoint, training_tensors
from lmpipe.training.optimizer import AdamW
from lmpipe.training.run import train
from lmpipe.training.run_config import load_run as load_inputs

STUDY = Path("results/tiny")
RUN = STUDY / "runs/experiment/baseline/seed0"
BEST = STUDY / "experiments/experiment/best.json"
TOKENIZER = STUDY / "tokenizers/tiny"
COUNTS = STUDY / "pretokens/tiny/0.npz"
CHECKPOINTS = STUDY / "store/0123/checkpoints"
OWNER = "0123"
DOCUMENT = "the sun sat on a stone, and the moon sang 25 songs to the sea\n<|endoftext|>\n"
MODEL = {"context_length": 8, "d_model": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
TRAINING = {"total_tokens": 8 * 8 * 150, "batch_size": 8, "max_lr": 0.03, "num_evaluations": 2, "eval_tokens": 64}
PLANNED = PlannedRun(
    study="tiny",
    experiment="experiment",
    name="baseline",
    seed=0,
    corpus="tiny",
    tokenizer="tiny",
    overrides={},
    model=MODEL,
    training=TRAINING,
)
STEPS = (10, 20)


@cache
def finished_study() -> Path:
    """A folder with a tiny study that is finished, made once in this process and removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="torture-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    study = folder / STUDY
    (study / "corpora/tiny").mkdir(parents=True)
    for split, documents in (("train", 60), ("valid", 6)):
        (study / f"corpora/tiny/{split}.txt").write_text(DOCUMENT * documents)
    counts = folder / COUNTS
    count_shard(study / "corpora/tiny/train.txt", 0, 1, counts, counts.with_suffix(".json"))
    train_tokenizer([counts], folder / TOKENIZER, "tiny", "tiny", 270)
    tokenizer = Tokenizer.from_folder(folder / TOKENIZER)
    for split in ("train", "valid"):
        tokens = study / f"tokens/tiny/{split}.bin"
        encode_file(study / f"corpora/tiny/{split}.txt", tokenizer, tokens, tokens.with_suffix(".json"), "tiny")
    train(PLANNED, study, folder / RUN)
    select_best(read_experiment(study, "experiment", [("baseline", 0)])).write(folder / BEST)
    for step in STEPS:
        save_checkpoint(folder / CHECKPOINTS, OWNER, step, checkpoint_tensors(step), {"step": step})
    return folder


def new_training() -> tuple[TransformerLM, AdamW]:
    """A model and its optimizer, as a run begins."""
    torch.set_num_threads(1)
    model = TransformerLM(ModelConfig(**MODEL, vocab_size=270), seed=0)
    return model, AdamW(model, TrainingSettings(**TRAINING))


def checkpoint_tensors(step: int) -> dict[str, torch.Tensor]:
    """What the checkpoint of a step holds here: other numbers at each step."""
    return {name: tensor + step for name, tensor in training_tensors(*new_training()).items()}


# --- harm


def harm_file(random: Random, path: Path, others: Sequence[Path]) -> None:
    """Do something to a file that a disk, a sync program or an attacker might do."""
    match random.randrange(12):
        case 0:
            data = random.choice(strange_files())
        case 1:
            data = random.choice(others).read_bytes()
        case 2:
            replace_file(random, path)
            return
        case number if number < 9 and path.suffix == ".json":
            # JSON cannot hold everything that may have come in; what it cannot is written as a text.
            data = json.dumps(harm_value(random, json.loads(path.read_text())), default=str, skipkeys=True).encode()
        case _:
            data = harm_bytes(random, path.read_bytes())
    path.write_bytes(data)


def replace_file(random: Random, path: Path) -> None:
    """Take a file away, and maybe put something there that is no file."""
    path.unlink()
    match random.randrange(3):
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)


class Planted:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


@cache
def strange_files() -> list[bytes]:
    """Whole files that no writer of ours makes: pickles, false promises, archives that unpack to too much."""
    planted = pickle.dumps(Planted())
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**30, 2**20], "data_offsets": [0, 2**52]}}).encode()
    torch.save(Planted(), saved := io.BytesIO())
    objects = {"text": np.array([Planted()], dtype=object), "lengths": np.ones(1), "counts": np.ones(1)}
    np.savez(arrays := io.BytesIO(), **objects, allow_pickle=True)
    np.savez_compressed(large := io.BytesIO(), text=np.zeros(1 << 28, np.uint8), lengths=np.ones(1), counts=np.ones(1))
    return [
        *(b"", b"\0", b"{}", b"[]", b"null", b"NaN", b"1e999", b"[" * 100_000, b'"\\ud800"', b"\xff\xfe", b"{" * 8),
        *(planted, saved.getvalue(), arrays.getvalue(), large.getvalue(), boastful_archive()),
        *(length.to_bytes(8, "little") + header for length in (len(header), 2**20, 2**60, 2**63)),
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b"9" * 10_000,
    ]


def boastful_archive() -> bytes:
    """An .npz whose array is said to have 2**60 numbers."""
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        for name, kind in (("text", "|u1"), ("lengths", "<u4"), ("counts", "<i8")):
            array = io.BytesIO()
            np.lib.format.write_array_header_1_0(array, {"descr": kind, "fortran_order": False, "shape": (2**60,)})
            file.writestr(f"{name}.npy", array.getvalue())
    return archive.getvalue()


# --- reading


def damaged(paths: Sequence[Path], use: Callable[[], str], random: Random, folder: Path) -> str:
    """One try: harm one of the files of a finished study, and use it."""
    shutil.copytree(finished_study(), folder, dirs_exist_ok=True)
    path = random.choice(paths)
    harm_file(random, path, list(paths))
    try:
        return use()
    except InputError as error:
        check_message(str(error))
    except OSError as error:
        # lmpipe's command line tells these in one line, by the name of the file.
        if not error.filename:
            raise
    return "refused"


def check_message(message: str) -> None:
    """Raise LostError unless a message is one line that names a file of the study, and holds a remedy."""
    if len(message.splitlines()) != 1 or len(message) > 2000 or "; " not in message:
        raise LostError(f"expected one line with a remedy, found {message!r:.500}")
    if str(STUDY) not in message:
        raise LostError(f"expected a file below {STUDY} in the message, found {message!r}")


def use_tokenizer() -> str:
    """A tokenizer that can be read encodes and decodes any text."""
    tokenizer = Tokenizer.from_folder(TOKENIZER)
    if tokenizer.decode(tokenizer.encode(DOCUMENT + "é😀")) != DOCUMENT + "é😀":
        raise LostError("expected the text again, found another")
    return "read"


def use_tokens() -> str:
    """A token file that can be read gives batches of ids of its vocabulary."""
    file = TokenDataset.open(STUDY / "tokens/tiny/train.bin")
    inputs, _ = get_batch(file.tokens, 0, 1, 4, 8)
    if inputs.min() < 0 or inputs.max() >= file.info.vocab_size:
        raise LostError(f"expected ids below {file.info.vocab_size}, found {inputs.max()}")
    return "read"


def use_counts() -> str:
    """Counts that can be read make a tokenizer."""
    train_tokenizer([COUNTS], "tokenizer", "tiny", "tiny", 270)
    return "read"


def use_run() -> str:
    """A run that can be read has figures and speaks."""
    run = Run.read(RUN)
    runs_table([run])
    run.validation_curve()
    select_best(read_experiment(STUDY, "experiment", [("baseline", 0)]))
    model, tokenizer = load_run(RUN)
    "".join(stream(model, tokenizer, "the sun", 1.0, 0.9, 3, seed=0))
    return "read"


def use_best() -> str:
    """A best rate that can be read is one."""
    training = PlannedTraining(
        **TRAINING | {"max_lr": {"best_of": "experiment", "scale": "sqrt_batch_size", "factor": 0.5}}
    )
    rate = load_inputs(PLANNED.model_copy(update={"training": training}), STUDY, BEST, RUN).training.max_lr
    if not 0 < rate < float("inf"):
        raise LostError(f"expected a rate, found {rate}")
    return "read"


def use_inputs() -> str:
    """What a run starts from is opened."""
    inputs = load_inputs(PLANNED, STUDY, None, RUN)
    if inputs.train.info.max_id >= inputs.model.vocab_size:
        raise LostError("expected ids of the vocabulary, found larger ones")
    return "read"


def use_checkpoints() -> str:
    """A checkpoint that can be read is what was written, be it the one before the newest."""
    loaded = load_checkpoint(CHECKPOINTS, OWNER)
    if loaded is None:
        raise LostError("expected the checkpoint before the damaged one, found none")
    tensors, state = loaded
    expected = checkpoint_tensors(state["step"])
    if tensors.keys() != expected.keys() or not all(torch.equal(tensors[name], expected[name]) for name in expected):
        raise LostError("expected the tensors that were written, found others")
    restore_tensors(*new_training(), tensors, state["step"])
    return "read" if state["step"] == STEPS[-1] else "gone back"


def fault(name: str, tries: int, paths: Sequence[Path], use: Callable[[], str]) -> Fault:
    """A fault that harms one of these files."""
    return Fault(name, tries, partial(damaged, paths, use), finished_study)


TOKENIZER_FILES = [TOKENIZER / name for name in ("vocab.json", "merges.txt", "tokenizer.json")]
TOKEN_FILES = [STUDY / f"tokens/tiny/train.{kind}" for kind in ("bin", "json")]
RUN_FILES = [RUN / name for name in ("config.json", "summary.json", "metrics.csv", "model.safetensors")]
FAULTS = (
    fault("tokenizer files", 300, TOKENIZER_FILES, use_tokenizer),
    fault("token files", 200, TOKEN_FILES, use_tokens),
    fault("count files", 200, [COUNTS, COUNTS.with_suffix(".json")], use_counts),
    fault("run files", 400, RUN_FILES, use_run),
    fault("best.json", 100, [BEST], use_best),
    fault("inputs of a run", 100, TOKENIZER_FILES + TOKEN_FILES, use_inputs),
    fault("checkpoints", 150, [CHECKPOINTS / f"step-{step:010d}.safetensors" for step in STEPS], use_checkpoints),
)
