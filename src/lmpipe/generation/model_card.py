"""Model card of an exported run: README.md with the metadata that the Hugging Face Hub reads."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.data.documents import CorpusInfo
from lmpipe.io.formatting import format_bytes, format_count, format_int, format_number, format_seconds
from lmpipe.study.paths import StudyPaths
from lmpipe.training.run_documents import RunConfig, RunSummary

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
ADDRESS = re.compile(r'"((?:https?|hf)://[^"]*)"')  # in the settings of a corpus, as JSON
TEMPLATE = Path(__file__).parent / "templates/model_card.md.j2"
FORMATTERS = (format_bytes, format_count, format_int, format_number, format_seconds)


def model_card(run_folder: str | Path, config: RunConfig, summary: RunSummary, file_format: str) -> str:
    """Return the model card of a run that is exported as `file_format`, huggingface or gguf.

    It describes the corpus if the study's folder still has it.
    """
    from huggingface_hub import ModelCard

    results = Path(os.path.normpath(Path(run_folder) / config.tokenizer.path)).parent.parent
    path = StudyPaths(results).corpus_info(config.corpus)
    corpus = CorpusInfo.read(path) if path.exists() else None
    card = ModelCard.from_template(
        card_metadata(config, summary, file_format),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=run_title(config),
        config=config,
        summary=summary,
        file_format=file_format,
        corpus=corpus,
        addresses=ADDRESS.findall(json.dumps(corpus.settings, ensure_ascii=False)) if corpus else [],
        **{function.__name__: function for function in FORMATTERS},
    )
    return f"{card}\n"


def card_metadata(config: RunConfig, summary: RunSummary, file_format: str) -> "ModelCardData":
    """Return the metadata: library, tags, and the final losses that are finite."""
    from huggingface_hub import EvalResult, ModelCardData

    metrics = {
        "loss": ("Loss (nats per token)", summary.validation_loss),
        "perplexity": ("Perplexity", summary.perplexity),
        "bits_per_byte": ("Bits per byte", summary.bits_per_byte),
    }
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=config.corpus,
            dataset_name=f"{config.corpus}, validation split",
            metric_type=key,
            metric_name=name,
            metric_value=value,
        )
        for key, (name, value) in metrics.items()
        if value is not None
    ]
    return ModelCardData(
        library_name="transformers" if file_format == "huggingface" else None,
        pipeline_tag="text-generation",
        tags=["llama", "lmpipe", *(["gguf"] if file_format == "gguf" else [])],
        model_name=run_title(config),
        eval_results=results or None,
    )


def run_title(config: RunConfig) -> str:
    """Return the name of a run among all studies."""
    return f"{config.study}/{config.experiment}/{config.run}/seed{config.seed}"
