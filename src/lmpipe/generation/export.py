"""Export of a trained run to a folder for other programs: model, tokenizer and model card."""

from pathlib import Path
from typing import Literal, assert_never

from lmpipe.errors import InputError
from lmpipe.generation.inference import read_run
from lmpipe.generation.model_card import CARD, model_card, run_title
from lmpipe.io.files import atomic_write_all
from lmpipe.study.paths import CONFIG, SUMMARY
from lmpipe.study.settings import ModelConfig
from lmpipe.training.run_documents import RunConfig, RunSummary

Format = Literal["huggingface", "gguf"]
# Words of a study whose model is a Llama (Touvron et al. 2023, section 2.2); all others are refused.
LLAMA = {
    "norm": ("pre", "an RMSNorm before each sublayer and at the end"),
    "position_embedding": ("rope", "RoPE"),
    "feed_forward": ("swiglu", "SwiGLU"),
}


def export(run_folder: str | Path, target: str | Path, file_format: Format = "huggingface") -> None:
    """Write a run to the folder `target`, as a Llama that other programs load.

    `huggingface` is for transformers' AutoModelForCausalLM and AutoTokenizer, `gguf` one file for llama.cpp and
    transformers; both have a model card, README.md. An earlier export in the same format is replaced. Raises
    InputError, before anything is written, if `target` is anything else that exists, if Llama cannot express the model,
    if the format needs a package that is not installed, and as `read_run` does.
    """
    config, weights, tokenizer = read_run(run_folder)
    check_is_llama(run_folder, config)
    run_config = RunConfig.read(Path(run_folder) / CONFIG)
    summary = RunSummary.read(Path(run_folder) / SUMMARY)
    match file_format:
        case "huggingface":
            from lmpipe.generation.huggingface import llama_files

            files = llama_files(config, weights, tokenizer)
        case "gguf":
            from lmpipe.generation.gguf_file import gguf_files

            files = gguf_files(config, weights, tokenizer, run_title(run_config))
        case unknown:
            assert_never(unknown)
    files[CARD] = model_card(run_folder, run_config, summary, file_format).encode()
    target = Path(target)
    check_target(target, set(files))
    atomic_write_all({target / name: data for name, data in files.items()})


def check_is_llama(run_folder: str | Path, config: ModelConfig) -> None:
    """Raise InputError, with the first reason, if a Llama does not compute what the model does."""
    for key, (word, description) in LLAMA.items():
        if getattr(config, key) != word:
            problem = f"model.{key} is {getattr(config, key)}, and exports are a Llama, which has {description}"
            raise InputError(run_folder, problem, "export another run")


def check_target(target: Path, files: set[str]) -> None:
    """Raise InputError unless a path is new, an empty folder, or an earlier export with these files."""
    # A killed export may have left temporary files.
    names = {path.name for path in target.iterdir() if ".tmp-" not in path.name} if target.is_dir() else set()
    if names not in (set(), files) or (target.exists() and not target.is_dir()):
        raise InputError(target, "is neither a new folder nor an earlier export in this format", "name another folder")
