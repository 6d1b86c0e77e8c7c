"""Complete documents of a training run, with any field changed."""

from functools import cache
from typing import Any

from lmpipe.provenance.environment import environment
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.run_documents import (
    InitDigest,
    RunConfig,
    RunSummary,
    TokenFileReference,
    TokenFileReferences,
    TokenizerReference,
)
from tests.support.tiny_study import MODEL, TRAINING


def run_config(**changes: Any) -> RunConfig:
    """config.json of a run on the tiny corpus."""
    token_file = TokenFileReference(path="tokens/tiny/train.bin", sha256="0" * 64, tokens=1000)
    config = RunConfig(
        study="test",
        experiment="experiment",
        run="baseline",
        seed=0,
        corpus="tiny",
        overrides={},
        tokenizer=TokenizerReference(name="tiny", path="tokenizers/tiny", sha256="0" * 64),
        tokens=TokenFileReferences(train=token_file, valid=token_file),
        model=ModelConfig(vocab_size=263, **MODEL),
        training=TrainingSettings.model_validate(TRAINING),
        lr_source=None,
    )
    return config.model_copy(update=changes)


def run_summary(**changes: Any) -> RunSummary:
    """summary.json of a finished run."""
    return finished_summary().model_copy(update=changes)


@cache
def finished_summary() -> RunSummary:
    return RunSummary(
        status="finished",
        reason=None,
        steps=60,
        planned_steps=60,
        detected_step=None,
        divergence_step=None,
        tokens=3840,
        initial_loss=5.6,
        final_train_loss=3.0,
        validation_loss=3.1,
        validation_loss_se=0.03,
        best_validation_loss=3.1,
        perplexity=22.2,
        bits_per_byte=2.5,
        validation_tokens=1000,
        validation_bytes=1800,
        init_digests={"lm_head.weight": InitDigest(parameters=4208, sha256="0" * 32)},
        batches_sha256="0" * 64,
        unigram_entropy=4.0,
        parameters=14000,
        train_seconds=2.0,
        compile_seconds=0.1,
        tokens_per_second=1920.0,
        peak_memory_bytes=10**8,
        memory_before_bytes=8 * 10**7,
        device="processor",
        threads=1,
        processes=1,
        compile=False,
        micro_batch_size=4,
        deterministic=True,
        precision="float32",
        num_resumes=0,
        code={"model.transformer": "0" * 16},
        environment=environment("torch", "numpy"),
    )
