"""Stages of the pipeline and the records that their jobs leave."""

from lmpipe.planning.plan import Plan
from lmpipe.provenance.job_records import RECORD


def records_of(plan: "Plan") -> dict[str, list[str]]:
    """The records that the jobs of a study leave, by verb, as paths below the study's folder."""
    study = plan.study
    sources = sorted({run.best_of for run in plan.runs} - {None})
    shards = [(corpus, shard) for corpus, settings in study.corpora.items() for shard in range(settings.shards)]
    sharded = plan.sharded_tokenizers()
    splits = [(tokenizer, split) for tokenizer in plan.tokenizers for split in ("train", "valid")]
    whole = [(tokenizer, split) for tokenizer, split in splits if split == "valid" or tokenizer not in sharded]
    return {
        "make-corpus": [f"corpora/{corpus}/{RECORD}" for corpus in study.corpora],
        "count-pretokens": [f"pretokens/{corpus}/{shard}.{RECORD}" for corpus, shard in shards],
        "train-bpe": [f"tokenizers/{tokenizer}/{RECORD}" for tokenizer in plan.tokenizers],
        "encode-corpus": [f"tokens/{tokenizer}/{split}.{RECORD}" for tokenizer, split in whole],
        "join-tokens": [f"tokens/{tokenizer}/train.{RECORD}" for tokenizer in sharded],
        "compare-tokenizers": [f"tokenizer_experiments.{RECORD}"],
        "explore-unicode": [f"unicode.{RECORD}"],
        "account-model": [f"accounting/{model}.{RECORD}" for model in plan.models],
        "measure-model": [f"model_measurements.{RECORD}"],
        "tune-sgd-toy": [f"learning_rate_tuning.{RECORD}"],
        "measure-batch-sizes": [f"batch_sizes.{RECORD}"],
        "train": [f"{folder}/{RECORD}" for folder in plan.runs_by_folder],
        "select-best": [f"experiments/{experiment}/best.{RECORD}" for experiment in sources],
        "generate": [f"samples/{corpus}.{RECORD}" for corpus in (study.samples.models if study.samples else [])],
        "plot-experiment": [f"experiments/{experiment}/{RECORD}" for experiment in plan.runs_by_experiment],
        "find": [f"findings.{RECORD}"],
        "report": [f"report.{RECORD}"],
    }


def rule_of(verb: str) -> str:
    """The rule that calls a verb of lmpipe.

    >>> rule_of("train-bpe")
    'train_bpe'
    """
    return verb.replace("-", "_")
