"""The plan of a study: every tokenizer and every training run, with all settings resolved."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from lmpipe.errors import InputError
from lmpipe.io.validation import closest_match, first_violation, short_repr
from lmpipe.study.corpora import UrlCorpus
from lmpipe.study.experiments import BestOf, ExperimentSettings, RunSettings
from lmpipe.study.fields import Settings
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.schema import Study, read_study
from lmpipe.study.settings import ModelConfig, ModelSettings

# What Snakemake plans in less than a minute.
MOST_JOBS = 5000
# A run's name is that of a folder, with room for what is added to it; systems allow 255 bytes.
LONGEST_RUN_NAME = 200
# Linux refuses an argument of a command from 131,072 bytes on.
LONGEST_ARGUMENT_BYTES = 120_000


class Plan:
    """A study and what it resolves to. Raises ValueError, with the key path, for what cannot be resolved."""

    def __init__(self, study: Study):
        self.study = study
        self.check_size()
        self.runs_by_experiment = {name: list(self.resolve(name, given)) for name, given in study.experiments.items()}
        self.runs = [run for runs in self.runs_by_experiment.values() for run in runs]
        self.runs_by_folder = {run.folder: run for run in self.runs}
        self.tokenizers = self.list_tokenizers()
        self.models = self.list_models()
        self.check_best_of()
        self.check_targets()
        self.check_samples()
        self.check_case_collisions()
        self.check_arguments()

    def check_size(self) -> None:
        """A study is no larger than what can be planned and carried out; nothing is expanded before that is known."""
        study = self.study
        check_argument("the study", study.model_dump(mode="json", exclude_none=True))
        shards = sum(corpus.shards for corpus in study.corpora.values())
        experiments = study.experiments.values()
        runs = sum(len(given.seeds or study.seeds) * given.runs_for_each_seed for given in experiments)
        if shards + runs > MOST_JOBS:
            raise ValueError(
                f"expected at most {MOST_JOBS:,} training runs and shards together, found {short_repr(runs)} and "
                f"{short_repr(shards)}; make several studies of it"
            )

    def resolve(self, name: str, experiment: ExperimentSettings) -> Iterator[PlannedRun]:
        """The runs of one experiment: each named run, times what varies, times the seeds."""
        seen = set()
        for run_name, run in (experiment.runs or {"": RunSettings()}).items():
            place = f"experiments.{name}" + (f".runs.{run_name}" if run_name else "")
            for point in (outer | inner for outer in experiment.grid() for inner in run.grid()):
                full_name = "_".join([*filter(None, [run_name]), *override_labels(point)]) or "baseline"
                if full_name in seen:
                    raise ValueError(f"{place}: two runs would be named {full_name!r}; let them differ")
                if len(full_name) > LONGEST_RUN_NAME:
                    raise ValueError(
                        f"{place}: expected a run's name of at most {LONGEST_RUN_NAME} characters, found "
                        f"{len(full_name)} in {short_repr(full_name)}; shorten names, or sweep fewer keys at once"
                    )
                seen.add(full_name)
                changes = experiment.overrides() | run.overrides() | point
                varied = plain_values(run.overrides() | point)
                for seed in experiment.seeds or self.study.seeds:
                    yield self.make_run(place, name, full_name, seed, changes, varied)

    def make_run(
        self, place: str, experiment: str, name: str, seed: int, changes: dict[str, Any], varied: dict[str, Any]
    ) -> PlannedRun:
        """One run: the study's settings and the run's own changes, put together and checked."""
        corpora = self.study.corpora
        corpus = changes.get("corpus")
        if corpus is None:
            raise ValueError(f"{place}: no corpus; add corpus: {next(iter(corpora))}")
        if corpus not in corpora:
            raise ValueError(unknown_name_message(f"{place}.corpus", corpus, corpora))
        try:
            model = ModelSettings.model_validate(apply_overrides(self.study.model, changes))
        except ValidationError as error:
            raise first_violation(error, None).below(place) from None
        return PlannedRun(
            study=self.study.study,
            experiment=experiment,
            name=name,
            seed=seed,
            corpus=corpus,
            tokenizer=tokenizer_name(corpus, changes.get("vocab_size"), corpora[corpus].tokenizer.vocab_size),
            overrides=varied,
            model=model,
            training=apply_overrides(self.study.training, changes),
        )

    def list_tokenizers(self) -> dict[str, tuple[str, int]]:
        """Every tokenizer by name, with its corpus and vocabulary size: each corpus's own, and those that runs vary."""
        own = {name: (name, corpus.tokenizer.vocab_size) for name, corpus in self.study.corpora.items()}
        varied = {run.tokenizer: (run.corpus, parse_vocab_size(run.tokenizer)) for run in self.runs}
        return varied | own

    def list_models(self) -> dict[str, ModelConfig]:
        """The models of the accounting; `study` is the study's own, with the vocabulary of the TinyStories stand-in."""
        study = self.study
        if "study" in study.accounting.models:
            raise ValueError("accounting.models.study: the name belongs to the study's own model; choose another")
        stand_ins = [corpus for corpus in study.corpora.values() if corpus.stands_for == "TinyStories"]
        corpus = (stand_ins or list(study.corpora.values()))[0]
        own = ModelConfig(vocab_size=corpus.tokenizer.vocab_size, **study.model.model_dump())
        return {**study.accounting.models, "study": own}

    def check_best_of(self) -> None:
        """The experiments that rates are taken from are there, and none waits for its own result."""
        sources = {name: {run.best_of for run in runs} - {None} for name, runs in self.runs_by_experiment.items()}
        for name, wanted in sources.items():
            for source in wanted - sources.keys():
                raise ValueError(unknown_name_message(f"experiments.{name}.max_lr.best_of", source, sources))
            for source in sorted(wanted):
                corpora = list(dict.fromkeys(run.corpus for run in self.runs_by_experiment[source]))
                if len(corpora) > 1:
                    raise ValueError(
                        f"experiments.{name}.max_lr.best_of: expected an experiment on one corpus, found {source!r} on "
                        f"{', '.join(corpora)}, whose losses do not compare; take the rate from another"
                    )
        for name in sources:
            reached, front = set(), {name}
            while front:
                front = set().union(*(sources[source] for source in front)) - reached
                reached |= front
            if name in reached:
                raise ValueError(f"experiments.{name}: best_of comes back to {name} itself; take the rate elsewhere")

    def check_targets(self) -> None:
        """An experiment with a target_loss predicts one kind of tokens: losses on others do not compare with it."""
        for name, experiment in self.study.experiments.items():
            tokenizers = list(dict.fromkeys(run.tokenizer for run in self.runs_by_experiment[name]))
            if experiment.target_loss is not None and len(tokenizers) > 1:
                raise ValueError(
                    f"experiments.{name}.target_loss: expected runs on one kind of tokens, found "
                    f"{', '.join(tokenizers)}, whose losses do not compare; set it in an experiment on one of them"
                )

    def check_samples(self) -> None:
        """Every shown model is a run of the plan that was trained on the corpus it stands for."""
        known = {f"{run.experiment}/{run.name}": run for run in self.runs}
        for corpus, name in (self.study.samples.models if self.study.samples else {}).items():
            place = f"samples.models.{corpus}"
            if corpus not in self.study.corpora:
                raise ValueError(unknown_name_message(place, corpus, self.study.corpora))
            if name not in known:
                raise ValueError(unknown_name_message(place, name, known))
            if known[name].corpus != corpus:
                raise ValueError(
                    f"{place}: expected a run on corpus {corpus!r}, found {name!r}, which is trained on "
                    f"{known[name].corpus!r}; name another run"
                )

    def check_case_collisions(self) -> None:
        """No two names of a kind differ in case alone: some file systems would put them into one folder."""
        kinds = {
            "corpora": self.study.corpora,
            "experiments": self.runs_by_experiment,
            "accounting.models": self.models,
        }
        kinds |= {
            f"experiments.{name}": dict.fromkeys(run.name for run in runs)
            for name, runs in self.runs_by_experiment.items()
        }
        for place, names in kinds.items():
            known: dict[str, str] = {}
            for name in names:
                if known.setdefault(name.casefold(), name) != name:
                    raise ValueError(
                        f"{place}: expected names that differ in more than case, found {known[name.casefold()]!r} and "
                        f"{name!r}; rename one"
                    )

    def check_arguments(self) -> None:
        """What a job is told on its command line is not longer than the system allows."""
        check_argument("tokenizers", self.tokenizers)
        for name, runs in self.run_keys().items():
            check_argument(f"experiments.{name}", runs)

    def sharded_tokenizers(self) -> list[str]:
        """The tokenizers whose training text is encoded shard by shard."""
        corpora = self.study.corpora
        return [tokenizer for tokenizer, (corpus, _) in self.tokenizers.items() if corpora[corpus].shards > 1]

    def downloads(self) -> dict[str, dict[str, Any]]:
        """Every text that is fetched, by the path that it is given: its address and what is known of it."""
        url_corpora = [corpus for corpus in self.study.corpora.values() if isinstance(corpus, UrlCorpus)]
        texts = [text for corpus in url_corpora for text in corpus.texts]
        return {text.download_path: text.model_dump() for text in texts if text.local_path is None}

    def sample_run(self, corpus: str) -> PlannedRun:
        """The run whose model speaks for a corpus: the first seed of the one that `samples` names."""
        name = self.study.samples.models[corpus]
        return next(run for run in self.runs if f"{run.experiment}/{run.name}" == name)

    def run_keys(self) -> dict[str, list[tuple[str, int]]]:
        """Names and seeds of the runs of every experiment, as `lmpipe.analysis.results` reads them."""
        return {name: [(run.name, run.seed) for run in runs] for name, runs in self.runs_by_experiment.items()}


def check_argument(place: str, settings: Any) -> None:
    """Raise ValueError for settings that are too long for a command line."""
    size = len(json.dumps(settings, ensure_ascii=False).encode())
    if size > LONGEST_ARGUMENT_BYTES:
        raise ValueError(
            f"{place}: expected at most {LONGEST_ARGUMENT_BYTES:,} bytes of settings, found {size:,}; "
            "make several studies of it"
        )


def tokenizer_name(corpus: str, vocab_size: int | None, own_vocab_size: int) -> str:
    """The corpus's own tokenizer bears its name; one of another size says so.

    >>> tokenizer_name("stories", 512, own_vocab_size=1024)
    'stories-vocab_size=512'
    """
    return corpus if vocab_size in (None, own_vocab_size) else f"{corpus}-vocab_size={vocab_size}"


def parse_vocab_size(name: str) -> int:
    """The size in the name of a tokenizer that is not its corpus's own; 0 for one that is."""
    return int(name.rpartition("-vocab_size=")[2]) if "-vocab_size=" in name else 0


def apply_overrides(base: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a block, with those changes that belong to it."""
    fields = type(base).model_fields
    return base.model_dump() | {key: value for key, value in changes.items() if key in fields}


def plain_values(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as plain JSON values; best_of blocks become dicts of what they say."""
    plain = {}
    for key, value in values.items():
        if isinstance(value, BestOf):
            plain[key] = value.model_dump(exclude_none=True)
        else:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def override_labels(point: dict[str, Any]) -> list[str]:
    """The parts of a run's name that say what it varies.

    >>> override_labels({"batch_size": 4, "max_lr": 0.003})
    ['batch_size=4', 'max_lr=0.003']
    """
    labels = []
    for key, value in point.items():
        if isinstance(value, BestOf):
            text = value.label
        elif isinstance(value, tuple):
            text = "-".join(repr(part) for part in value)
        else:
            text = value if isinstance(value, str) else repr(value)
        labels.append(f"{key}={text}")
    return labels


def unknown_name_message(place: str, found: str, known: Iterable[str]) -> str:
    """Say what comes nearest to an unknown name."""
    near = closest_match(found, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(list(known)[:12])}"
    return f"{place}: no {short_repr(found)} in this study; {hint}"


def load_plan(config: dict[str, Any], source: str) -> Plan:
    """Check a study and resolve it; `source` names its file in messages.

    Raises InputError with one line that names the file, the key path, what was found and the remedy.
    """
    study = read_study(config, source)
    try:
        return Plan(study)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
