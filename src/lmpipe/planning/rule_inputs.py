"""Inputs, parameters, resources and priorities of the workflow's jobs, as functions of their wildcards.

Paths begin with `<results>`, the path variable of the Snakefile. Parameters hold the settings that a job depends on:
Snakemake runs a job again if one of them changes.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmpipe.errors import InputError
from lmpipe.planning import resource_requests
from lmpipe.planning.cost_model import CPU_CORE, run_cost
from lmpipe.planning.plan import Plan, find
from lmpipe.planning.resource_requests import ResourceRequest
from lmpipe.planning.stages import records
from lmpipe.study.corpora import Corpus
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import CONFIG, SUMMARY, WEIGHTS, StudyPaths

if TYPE_CHECKING:
    from snakemake.io import Wildcards

# Threads of a job that uses all cores of a cluster's node, whose number is not known when Snakemake submits it.
CLUSTER_THREADS = 4


@dataclass(frozen=True)
class Requests:
    """Resources of a rule's jobs, as functions of their wildcards."""

    request: Callable[["Wildcards"], ResourceRequest]

    def mem_mb(self, wildcards: "Wildcards") -> int:
        """Return the memory of a job in MB."""
        return self.request(wildcards).mem_mb

    def runtime(self, wildcards: "Wildcards") -> int:
        """Return the run time of a job in minutes."""
        return self.request(wildcards).runtime


class RuleInputs:
    """Answers of a plan to the rules. Each method takes the wildcards of a job, unless noted otherwise.

    A target that the plan does not have ends the process with one line, which names the nearest ones.
    """

    def __init__(self, plan: Plan):
        self.plan, self.paths = plan, StudyPaths(Path("<results>"))
        self.runs = {run.id: run for run in plan.runs}
        self.critical_path = resource_requests.critical_path_seconds(plan)
        downloads = plan.downloads()
        # A text that exists is a source file for Snakemake, which it never removes: no other setting or code, no forced
        # or killed call can lose it. Only missing texts are outputs of jobs.
        self.missing_texts = [path.removeprefix("resources/") for path in downloads if not os.path.exists(path)]
        self.texts_with_checksum = {path for path, text in downloads.items() if text.sha256}
        self.make_corpus = Requests(lambda job: resource_requests.make_corpus_request(self._corpus(job.corpus)))
        self.train = Requests(lambda wildcards: resource_requests.train_request(plan, self._run(wildcards)))
        self.train_bpe, self.encode, self.concat = map(self._text, ("train_bpe", "encode_corpus", "concat_tokens"))
        self.yardsticks = Requests(self._yardsticks_request)
        # All tasks of a job array get the request of the first one: enough for any corpus.
        self.count, self.encode_shard = map(self._largest, ("count_pretokens", "encode_shard"))

    def settings(self, kind: str, *wildcards: str) -> Callable[["Wildcards"], str]:
        """Return a parameter: the plan's settings of a kind for some wildcards, as Snakemake records them."""
        function = getattr(self.plan, f"{kind}_settings")
        return lambda values: as_json(or_exit(function, *(getattr(values, wildcard) for wildcard in wildcards)))

    # --- corpora

    def download_arguments(self, wildcards: "Wildcards") -> list[str]:
        """Return the address of a text, and its declarations in the study as options."""
        text = self.plan.downloads()[f"resources/{wildcards.text}"]
        declared = text.model_dump(exclude={"path"}, exclude_none=True)
        return [text.path, *(f"--{key.replace('_', '-')}={value}" for key, value in declared.items())]

    def corpus_texts(self, wildcards: "Wildcards") -> list[str]:
        """Return the files that a corpus names one by one, or downloads; those of folders are in its settings.

        A download with a checksum stays the same text, whenever it was downloaded.
        """
        from snakemake.io import ancient

        paths = self._corpus(wildcards.corpus).text_paths()
        return [ancient(path) if path in self.texts_with_checksum else path for path in paths]

    def num_shards(self, wildcards: "Wildcards") -> int:
        """Return the number of shards of a corpus, or of a tokenizer's corpus."""
        return self._corpus_of(wildcards).num_shards

    # --- tokenizers and tokens

    def tokenizer_corpus(self, wildcards: "Wildcards") -> str:
        """Return the corpus that a tokenizer is trained on."""
        return self._tokenizer(wildcards)[0]

    def vocab_size(self, wildcards: "Wildcards") -> int:
        """Return the vocabulary size of a tokenizer."""
        return self._tokenizer(wildcards)[1]

    def special_token_options(self, wildcards: "Wildcards") -> list[str]:
        """Return the special tokens of a corpus, or of a tokenizer's corpus, as options."""
        return [f"--special-token={token}" for token in self._corpus_of(wildcards).tokenizer.special_tokens]

    def existing_tokenizer(self, wildcards: "Wildcards") -> list[str]:
        """Return the files of a tokenizer that exists already."""
        from lmpipe.tokenizer.existing import tokenizer_files

        return strings(or_exit(tokenizer_files, self._corpus_of(wildcards).tokenizer.path))

    def pretoken_counts(self, wildcards: "Wildcards") -> list[str]:
        """Return the pre-token counts of a tokenizer's corpus, by shard."""
        corpus = self.tokenizer_corpus(wildcards)
        return strings(self.paths.pretokens(corpus, shard) for shard in range(self._corpus(corpus).num_shards))

    def tokenizer_text(self, wildcards: "Wildcards") -> str:
        """Return the text of a tokenizer's corpus: of the wildcard `split`, or for training."""
        return str(self.paths.text(self.tokenizer_corpus(wildcards), getattr(wildcards, "split", "train")))

    def token_shards(self, suffix: str) -> Callable[["Wildcards"], list[str]]:
        """Return an input function: the shards of a tokenizer's training tokens, with a suffix such as `.bin`."""

        def files(wildcards: "Wildcards") -> list[str]:
            shards = range(self.num_shards(wildcards))
            paths = (self.paths.token_shard(wildcards.tokenizer, shard) for shard in shards)
            return strings(path.with_suffix(suffix) for path in paths)

        return files

    # --- training runs

    def run_tokens(self, wildcards: "Wildcards") -> list[str]:
        """Return the token files of a run, and its vocabulary."""
        tokenizer = self._run(wildcards).tokenizer
        tokens = [self.paths.tokens(tokenizer, split) for split in ("train", "valid")]
        files = [path.with_suffix(suffix) for path in tokens for suffix in (".bin", ".json")]
        return strings([*files, self.paths.tokenizer(tokenizer) / "vocab.json"])

    def run_best(self, wildcards: "Wildcards") -> list[str]:
        """Return the best run of the experiment that a run takes its learning rate from; none if it takes none."""
        source = self._run(wildcards).best_of
        return [str(self.paths.best(source))] if source else []

    def run_settings(self, wildcards: "Wildcards") -> str:
        """Return the settings of a run; without defaults, so that a new setting does not rerun what does not use it."""
        return as_json(self._run(wildcards).model_dump(mode="json", exclude_defaults=True))

    def run_priority(self, wildcards: "Wildcards") -> int:
        """Return the seconds of a run and all that waits for it; the longest starts first, so that no core idles."""
        run = self._run(wildcards)
        return round(run_cost(self.plan, run).seconds(CPU_CORE) + self.critical_path[run.experiment])

    def best_priority(self, wildcards: "Wildcards") -> int:
        """Return the seconds of the runs that wait for an experiment's best rate."""
        return round(or_exit(find, "experiment", wildcards.experiment, self.critical_path))

    def experiment_files(self, *names: str) -> Callable[["Wildcards"], list[str]]:
        """Return an input function: files of every run of an experiment, by name."""

        def files(wildcards: "Wildcards") -> list[str]:
            runs = or_exit(find, "experiment", wildcards.experiment, self.plan.runs_by_experiment)
            return [f"<results>/{run.folder}/{name}" for run in runs for name in names]

        return files

    # --- samples, findings, report

    def sample_inputs(self, wildcards: "Wildcards") -> list[str]:
        """Return the files of the runs and the tokenizers that generate text for a corpus."""
        runs = [or_exit(self.plan.sample_run, wildcards.corpus), *self.plan.progress_runs(wildcards.corpus)]
        files = [f"<results>/{run.folder}/{name}" for run in runs for name in (CONFIG, SUMMARY, WEIGHTS)]
        files += [f"{self.paths.tokenizer(run.tokenizer)}/merges.txt" for run in runs]
        return list(dict.fromkeys(files))

    def records(self, *without: str) -> list[str]:
        """Return the records of all jobs but those of the rules `without`; takes no wildcards."""
        return [f"<results>/{path}" for path in records(self.plan, without)]

    # --- lookups

    def _corpus(self, name: str) -> Corpus:
        return or_exit(find, "corpus", name, self.plan.study.corpora)

    def _corpus_of(self, wildcards: "Wildcards") -> Corpus:
        """Return the corpus of a job, or that of its tokenizer."""
        return self._corpus(getattr(wildcards, "corpus", None) or self.tokenizer_corpus(wildcards))

    def _tokenizer(self, wildcards: "Wildcards") -> tuple[str, int]:
        return or_exit(find, "tokenizer", wildcards.tokenizer, self.plan.tokenizers)

    def _run(self, wildcards: "Wildcards") -> PlannedRun:
        name = f"{wildcards.experiment}/{wildcards.run}/seed{wildcards.seed}"
        return or_exit(find, "run", name, self.runs)

    def _yardsticks_request(self, wildcards: "Wildcards") -> ResourceRequest:
        corpus = self._corpus(wildcards.corpus)
        return resource_requests.yardsticks_request(corpus, self.plan.yardstick_budgets(wildcards.corpus))

    def _text(self, rule: str) -> Requests:
        """Return the requests of a rule's jobs, each for a tokenizer's corpus."""
        return Requests(lambda wildcards: resource_requests.text_requests(self._corpus_of(wildcards))[rule])

    def _largest(self, rule: str) -> Requests:
        """Return the same request for all jobs of a rule: enough for any corpus."""
        requests = [resource_requests.text_requests(corpus)[rule] for corpus in self.plan.study.corpora.values()]
        largest = ResourceRequest(*map(max, zip(*map(astuple, requests), strict=True)))
        return Requests(lambda _: largest)


def or_exit(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function; end the process with one line for an InputError.

    Snakemake prints a traceback for any exception of an input function but SystemExit.
    """
    try:
        return function(*arguments)
    except InputError as error:
        raise SystemExit(str(error)) from None


def name_pattern(names: Iterable[str]) -> str:
    """Return a wildcard constraint for `names`; `(?!)` matches nothing, since Snakemake ignores an empty constraint."""
    return "|".join([*map(re.escape, names), "(?!)"])


def as_json(value: Any) -> str:
    """Return settings as Snakemake records them."""
    return json.dumps(value, ensure_ascii=False)


def strings(paths: Iterable[Path]) -> list[str]:
    """Return paths as Snakemake takes them."""
    return [path.as_posix() for path in paths]
