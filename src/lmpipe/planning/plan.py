"""The plan of a study: every tokenizer and every training run, with all settings resolved."""

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmpipe.errors import InputError
from lmpipe.io.validation import InvalidValueError, closest_match, first_violation, short_repr
from lmpipe.study.corpora import TextFile, UrlCorpus
from lmpipe.study.experiments import BestOf, ExperimentSettings, RunSettings
from lmpipe.study.fields import Settings
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.schema import Study, read_study
from lmpipe.study.settings import ModelConfig, ModelSettings

MAX_JOBS = 5000  # Snakemake plans them in less than a minute
MAX_SHARDS = 1000  # so that their paths fit into one command line
MAX_RUN_NAME = 200  # characters; a folder's name may have 255 bytes, and files beside it add some


class Plan:
    """A study with all tokenizers, models and training runs that it asks for.

    `tokenizers` maps a name to its corpus and vocabulary size. `runs` are in the order of the study;
    `runs_by_experiment` and `runs_by_folder` give the same ones by name.

    Raise InvalidValueError if the study cannot be resolved; the problem begins with the key path.
    """

    def __init__(self, study: Study):
        self.study = study
        check_size(study)
        self.runs_by_experiment = {
            name: list(self._resolve(name, experiment)) for name, experiment in study.experiments.items()
        }
        self.runs = [run for runs in self.runs_by_experiment.values() for run in runs]
        self.runs_by_folder = {run.folder: run for run in self.runs}
        self.tokenizers = self._list_tokenizers()
        self.models = self._list_models()

    def _resolve(self, name: str, experiment: ExperimentSettings) -> Iterator[PlannedRun]:
        """Yield the runs of one experiment: each named run, times the grid, times the seeds."""
        names = set()
        for run_name, run in (experiment.runs or {"": RunSettings()}).items():
            key = f"experiments.{name}" + (f".runs.{run_name}" if run_name else "")
            for point in (outer | inner for outer in experiment.grid() for inner in run.grid()):
                full_name = "_".join([*filter(None, [run_name]), *override_labels(point)]) or "baseline"
                if full_name in names:
                    raise InvalidValueError(f"{key} has two runs named {full_name!r}", "let them differ")
                if len(full_name) > MAX_RUN_NAME:
                    raise InvalidValueError(
                        f"{key} has a run with a name of {len(full_name)} characters, {short_repr(full_name)}; at most "
                        f"{MAX_RUN_NAME} are possible",
                        "shorten names, or sweep fewer keys at once",
                    )
                names.add(full_name)
                changes = experiment.overrides() | run.overrides() | point
                overrides = plain_values(run.overrides() | point)
                for seed in experiment.seeds or self.study.seeds:
                    yield self._make_run(key, name, full_name, seed, changes, overrides)

    def _make_run(
        self, key: str, experiment: str, name: str, seed: int, changes: dict[str, Any], overrides: dict[str, Any]
    ) -> PlannedRun:
        corpora = self.study.corpora
        corpus = changes.get("corpus")
        if corpus is None:
            raise InvalidValueError(f"{key} names no corpus", f"add corpus: {next(iter(corpora))}")
        if corpus not in corpora:
            raise InvalidValueError(*unknown_name(f"{key}.corpus", corpus, corpora))
        try:
            model = ModelSettings.model_validate(apply_overrides(self.study.model, changes))
        except ValidationError as error:
            raise first_violation(error, None).below(key) from None
        return PlannedRun(
            study=self.study.study,
            experiment=experiment,
            name=name,
            seed=seed,
            corpus=corpus,
            tokenizer=tokenizer_name(corpus, changes.get("vocab_size"), corpora[corpus].tokenizer.vocab_size),
            overrides=overrides,
            model=model,
            training=apply_overrides(self.study.training, changes),
        )

    def _list_tokenizers(self) -> dict[str, tuple[str, int]]:
        """List the corpora's own tokenizers, and those with other vocabulary sizes of runs."""
        of_corpora = {name: (name, corpus.tokenizer.vocab_size) for name, corpus in self.study.corpora.items()}
        of_runs = {run.tokenizer: (run.corpus, parse_vocab_size(run.tokenizer)) for run in self.runs}
        return of_runs | of_corpora

    def _list_models(self) -> dict[str, ModelConfig]:
        """List the models to account for; `study` is the study's own, with the TinyStories stand-in's vocabulary."""
        study = self.study
        if "study" in study.accounting.models:
            raise InvalidValueError("accounting.models.study is the name of the study's own model", "choose another")
        stand_ins = [corpus for corpus in study.corpora.values() if corpus.stands_for == "TinyStories"]
        corpus = (stand_ins or list(study.corpora.values()))[0]
        study_model = ModelConfig(vocab_size=corpus.tokenizer.vocab_size, **study.model.model_dump())
        return {**study.accounting.models, "study": study_model}

    def sharded_tokenizers(self) -> list[str]:
        """Return the tokenizers whose training text is encoded in shards."""
        corpora = self.study.corpora
        return [tokenizer for tokenizer, (corpus, _) in self.tokenizers.items() if corpora[corpus].shards > 1]

    def downloads(self) -> dict[str, TextFile]:
        """Return every text to download, by its path below the folder where snakemake runs."""
        url_corpora = [corpus for corpus in self.study.corpora.values() if isinstance(corpus, UrlCorpus)]
        texts = [text for corpus in url_corpora for text in corpus.texts]
        return {text.download_path: text for text in texts if text.local_path is None}

    def sampled_corpora(self) -> list[str]:
        """Return the corpora for which text is generated."""
        return list(self.study.samples.models) if self.study.samples else []

    def sample_run(self, corpus: str) -> PlannedRun:
        """Return the run that generates text for a corpus: the first seed of the one that `samples` names."""
        name = self.study.samples.models[corpus]
        return next(run for run in self.runs if f"{run.experiment}/{run.name}" == name)

    def step_settings(self) -> dict[str, Any]:
        """Return the settings of the step that is measured: the study's own model and training."""
        training = self.study.training.model_dump(mode="json")
        return {"model": self.models["study"].model_dump(mode="json"), "training": training}

    def run_keys(self) -> dict[str, list[tuple[str, int]]]:
        """Return names and seeds of the runs of every experiment."""
        return {name: [(run.name, run.seed) for run in runs] for name, runs in self.runs_by_experiment.items()}


def check_size(study: Study) -> None:
    """Raise InvalidValueError if a study is too large to plan; nothing is expanded before."""
    shards = [corpus.shards for corpus in study.corpora.values()]
    if max(shards) > MAX_SHARDS:
        problem = f"a corpus has {max(shards):,} shards; at most {MAX_SHARDS:,} are possible"
        raise InvalidValueError(problem, "use fewer")
    experiments = study.experiments.values()
    runs = sum(len(experiment.seeds or study.seeds) * experiment.runs_for_each_seed for experiment in experiments)
    if sum(shards) + runs > MAX_JOBS:
        raise InvalidValueError(
            f"the study has {runs:,} training runs and {sum(shards):,} shards; together at most "
            f"{MAX_JOBS:,} are possible",
            "make several studies of it",
        )


def tokenizer_name(corpus: str, vocab_size: int | None, own_vocab_size: int) -> str:
    """Return the name of a tokenizer: its corpus, with the vocabulary size if that is not the corpus's own.

    >>> tokenizer_name("stories", 512, own_vocab_size=1024)
    'stories-vocab_size=512'
    """
    return corpus if vocab_size in (None, own_vocab_size) else f"{corpus}-vocab_size={vocab_size}"


def parse_vocab_size(name: str) -> int:
    """Return the vocabulary size in a tokenizer's name; 0 if there is none."""
    return int(name.rpartition("-vocab_size=")[2]) if "-vocab_size=" in name else 0


def apply_overrides(base: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a block of settings, with those changes that belong to it."""
    fields = type(base).model_fields
    return base.model_dump() | {key: value for key, value in changes.items() if key in fields}


def plain_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON values."""
    plain = {}
    for key, value in values.items():
        if isinstance(value, BestOf):
            plain[key] = value.model_dump(exclude_none=True)
        else:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def override_labels(point: dict[str, Any]) -> list[str]:
    """Return the parts of a run's name that give its point of the grid.

    >>> override_labels({"batch_size": 4, "max_lr": 0.003})
    ['batch_size=4', 'max_lr=0.003']
    """
    labels = []
    for key, value in point.items():
        if isinstance(value, BestOf):
            text = value.label
        elif isinstance(value, tuple):
            text = "-".join(repr(item) for item in value)
        else:
            text = value if isinstance(value, str) else repr(value)
        labels.append(f"{key}={text}")
    return labels


def unknown_name(key: str, name: str, names: Collection[str]) -> tuple[str, str]:
    """Return problem and remedy for a name that a study does not have: the nearest names that it has.

    >>> unknown_name("samples.models", "storys", ["stories", "docs"])
    ("samples.models names 'storys', which this study does not have", 'use stories')
    """
    return f"{key} names {short_repr(name)}, which this study does not have", nearest_names(name, names)


def nearest_names(name: str, names: Collection[str]) -> str:
    """Return the remedy for a wrong name: the nearest ones, or the first ones if none is near."""
    near = get_close_matches(name, names, n=3, cutoff=0.6) or [closest_match(name, names)]
    return f"use {' or '.join(near)}" if near[0] else f"use one of {', '.join(list(names)[:12])}"


def find_name(kind: str, name: str, names: Collection[str]) -> str:
    """Return `name` if it is among the study's `names`; else raise InputError with the nearest ones."""
    if name not in names:
        raise InputError(f"this study has no {kind} named {name}", remedy=nearest_names(name, names))
    return name


def read_plan(path: str | Path) -> Plan:
    """Return the plan of a study file; raise InputError if it cannot be read or is no study."""
    from lmpipe.study.loader import read_study_file

    return load_plan(read_study_file(path), str(path))


def load_plan(config: dict[str, Any], source: str) -> Plan:
    """Validate a study and resolve it; raise InputError, which names the file `source`, if that fails."""
    from lmpipe.planning.plan_checks import check_plan

    study = read_study(config, source)
    try:
        plan = Plan(study)
        check_plan(plan)
    except InvalidValueError as error:
        raise InputError(source, f"{error.key} {error.problem}".lstrip(), error.remedy) from None
    return plan
