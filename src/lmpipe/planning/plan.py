"""The plan of a study: every tokenizer and every training run, with all settings resolved."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from lmpipe.errors import InputError
from lmpipe.io.validation import InvalidValueError, closest_match, first_violation, short_repr
from lmpipe.study.corpora import MAX_SHARDS, FilesCorpus, SplitSettings
from lmpipe.study.editions import AdamWQuestion, adamw_question, edition_models
from lmpipe.study.experiments import ExperimentSettings, PlannedRun
from lmpipe.study.fields import Settings
from lmpipe.study.loader import read_study_file
from lmpipe.study.problems import listed_problems
from lmpipe.study.schema import Study, read_study
from lmpipe.study.settings import ModelConfig, ModelSettings
from lmpipe.study.text_files import TextFile

MAX_JOBS = 5000  # Snakemake plans them in less than a minute
MAX_NGRAM_TOKENS = 1 << 26  # more would take many gigabytes, and n-gram tables hardly improve
MAX_SHORTENING = 4  # of the default training, for runs whose tokens get yardsticks
MAX_RUN_NAME = 200  # characters; a folder's name may have 255 bytes, and files beside it add some

Entry = TypeVar("Entry")


class Plan:
    """A study with all tokenizers, models and training runs that it asks for.

    `problems` are those that the report answers. `tokenizers` maps a name to its corpus and vocabulary size. `runs` are
    in the order of the study; `runs_by_experiment` and `runs_by_folder` give the same ones by name.

    Raise InvalidValueError if the study cannot be resolved; the problem begins with the key path.
    """

    def __init__(self, study: Study):
        self.study = study
        self.problems = listed_problems(study.handout, study.experiments)
        check_size(study)
        own_tokenizers = {name: (name, corpus.tokenizer.vocab_size) for name, corpus in study.corpora.items()}
        self.tokenizers: dict[str, tuple[str, int]] = {}  # those of the runs, which `_make_run` adds, come first
        self.runs_by_experiment = {
            name: list(self._resolve(name, experiment)) for name, experiment in study.experiments.items()
        }
        self.runs = [run for runs in self.runs_by_experiment.values() for run in runs]
        self.runs_by_folder = {run.folder: run for run in self.runs}
        self.tokenizers |= own_tokenizers
        self.models = self._list_models()

    def _resolve(self, name: str, experiment: ExperimentSettings) -> Iterator[PlannedRun]:
        """Yield the runs of one experiment: each named run, times the grid, times the seeds."""
        names = set()
        for variant in experiment.variants():
            full_name, run = variant.name, variant.settings
            key = f"experiments.{name}" + (f".runs.{variant.run}" if variant.run else "")
            if full_name in names:
                raise InvalidValueError(f"{key} has two runs named {full_name!r}", "let them differ")
            if len(full_name) > MAX_RUN_NAME:
                raise InvalidValueError(
                    f"{key} has a run with a name of {len(full_name)} characters, {short_repr(full_name)}; at most "
                    f"{MAX_RUN_NAME} are possible",
                    "shorten names, or sweep fewer keys at once",
                )
            names.add(full_name)
            changes = experiment.overrides() | run.overrides() | variant.point
            overrides = to_jsonable_python(run.overrides() | variant.point, exclude_none=True)
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
        own_size = corpora[corpus].tokenizer.vocab_size
        vocab_size = changes.get("vocab_size") or own_size
        if vocab_size != own_size and corpora[corpus].tokenizer.path:
            problem = f"{key}.vocab_size is {vocab_size}, but the tokenizer of {corpus} is an existing one"
            raise InvalidValueError(problem, "remove it, or name a corpus whose tokenizer is trained")
        tokenizer = corpus if vocab_size == own_size else f"{corpus}-vocab_size={vocab_size}"
        self.tokenizers[tokenizer] = corpus, vocab_size
        return PlannedRun(
            study=self.study.study,
            experiment=experiment,
            name=name,
            seed=seed,
            corpus=corpus,
            tokenizer=tokenizer,
            overrides=overrides,
            model=model,
            training=apply_overrides(self.study.training, changes),
        )

    def _list_models(self) -> dict[str, ModelConfig]:
        """List the models to account for; `study` is the study's own, with the TinyStories stand-in's vocabulary."""
        study, shapes = self.study, edition_models(self.study.handout)
        for name in study.accounting.models:
            if name in ("study", "provenance", *shapes):
                raise InvalidValueError(f"accounting.models.{name} is the name of another model", "choose another")
        stand_ins = [corpus for corpus in study.corpora.values() if corpus.stands_for == "TinyStories"]
        corpus = (stand_ins or list(study.corpora.values()))[0]
        study_model = ModelConfig(vocab_size=corpus.tokenizer.vocab_size, **study.model.model_dump())
        return {**study.accounting.models, **shapes, "study": study_model}

    def adamw_question(self, name: str) -> AdamWQuestion:
        """Return the device and the training that a model is accounted for with."""
        question, memory = adamw_question(self.study.handout, name), self.study.accounting.device_memory_gb
        is_own = name == "study" or name in self.study.accounting.models
        return question.model_copy(update={"device_memory_gb": memory}) if is_own else question

    def tokenizer_corpora(self) -> dict[str, str]:
        """Return the corpus of each tokenizer."""
        return {name: corpus for name, (corpus, _) in self.tokenizers.items()}

    def yardstick_budgets(self, corpus: str) -> list[int]:
        """Return the numbers of training tokens at which a corpus is measured: those of its longer runs."""
        find("corpus", corpus, self.study.corpora)
        default = self.study.training.total_tokens
        budgets = {run.training.total_tokens for run in self.runs if run.corpus == corpus}
        budgets = {budget for budget in budgets if budget >= default / MAX_SHORTENING} or {default}
        return sorted({min(budget, MAX_NGRAM_TOKENS) for budget in budgets})

    def existing_tokenizers(self) -> dict[str, str]:
        """Return the path of each tokenizer that exists already, in place of a trained one."""
        corpora = self.study.corpora
        paths = {name: corpora[corpus].tokenizer.path for name, (corpus, _) in self.tokenizers.items()}
        return {name: path for name, path in paths.items() if path}

    def trained_tokenizers(self) -> list[str]:
        """Return the tokenizers that are trained."""
        existing = self.existing_tokenizers()
        return [name for name in self.tokenizers if name not in existing]

    def sharded_tokenizers(self) -> list[str]:
        """Return the tokenizers whose training text is encoded in shards."""
        corpora = self.study.corpora
        return [tokenizer for tokenizer, (corpus, _) in self.tokenizers.items() if corpora[corpus].num_shards > 1]

    def downloads(self) -> dict[str, TextFile]:
        """Return every text to download, by its path below the folder where snakemake runs."""
        corpora = [corpus for corpus in self.study.corpora.values() if isinstance(corpus, FilesCorpus)]
        texts = [text for corpus in corpora for text in corpus.texts]
        return {text.download_path: text for text in texts if text.url}

    def sampled_corpora(self) -> list[str]:
        """Return the corpora for which text is generated."""
        return list(self.study.samples.models) if self.study.samples else []

    def sample_run(self, corpus: str) -> PlannedRun:
        """Return the run that generates text for a corpus: the first seed of the one that `samples` names.

        Raises InputError for a corpus without samples.
        """
        name = find("corpus with samples", corpus, self.study.samples.models if self.study.samples else {})
        return self._first_seed(name)

    def progress_runs(self, corpus: str) -> list[PlannedRun]:
        """Return the runs that each write one short text for a corpus, the first seed of each."""
        return [self._first_seed(name) for name in self.study.samples.progress.get(corpus, ())]

    def _first_seed(self, name: str) -> PlannedRun:
        return next(run for run in self.runs if f"{run.experiment}/{run.name}" == name)

    def run_keys(self) -> dict[str, list[tuple[str, int]]]:
        """Return names and seeds of the runs of every experiment."""
        return {name: [(run.name, run.seed) for run in runs] for name, runs in self.runs_by_experiment.items()}

    # --- settings that a job depends on, as JSON values; raise InputError for a name that the study does not have

    def corpus_settings(self, name: str) -> dict[str, Any]:
        """Return the settings of a corpus's text, with the identities of its files in order."""
        corpus = find("corpus", name, self.study.corpora)
        settings = {"name": name, **corpus.text_settings()}
        if isinstance(corpus, SplitSettings):
            settings["texts"] = corpus.file_identities()
        return settings

    def evaluation_settings(self) -> dict[str, Any]:
        """Return the corpora, and the corpus of each tokenizer, that are evaluated."""
        return {"corpora": list(self.study.corpora), "tokenizers": self.tokenizer_corpora()}

    def yardstick_settings(self, corpus: str) -> dict[str, Any]:
        """Return the numbers of training tokens at which a corpus is measured."""
        return {"corpus": corpus, "budgets": self.yardstick_budgets(corpus)}

    def accounting_settings(self) -> dict[str, Any]:
        """Return the models to account for, each with the training that is asked about."""
        return {
            name: {"model": model.model_dump(mode="json"), "adamw": self.adamw_question(name).model_dump(mode="json")}
            for name, model in self.models.items()
        }

    def step_settings(self) -> dict[str, Any]:
        """Return the model and the training of the step that is measured: the study's own."""
        training = self.study.training.model_dump(mode="json")
        return {"model": self.models["study"].model_dump(mode="json"), "training": training}

    def experiment_settings(self, name: str) -> dict[str, Any]:
        """Return names and seeds of an experiment's runs."""
        return {"experiment": name, "runs": find("experiment", name, self.run_keys())}

    def sample_settings(self, corpus: str) -> dict[str, Any]:
        """Return the samples of a corpus, and the runs that generate them."""
        run = self.sample_run(corpus)
        settings = self.study.samples
        samples = settings.model_dump(mode="json", exclude={"models", "progress"}) | {
            "prompts": settings.prompts_for(corpus)
        }
        progress = [f"{other.experiment}/{other.name}" for other in self.progress_runs(corpus)]
        return {
            "corpus": corpus,
            "run": f"{run.experiment}/{run.name}",
            "seed": run.seed,
            "progress": progress,
            **samples,
        }

    def study_settings(self) -> dict[str, Any]:
        """Return the whole study, with the numbers of shards: results can then be read without the texts."""
        settings = self.study.model_dump(mode="json", exclude_none=True)
        for name, corpus in self.study.corpora.items():
            if isinstance(corpus, FilesCorpus):
                settings["corpora"][name]["shards"] = corpus.num_shards
        return settings


def check_size(study: Study) -> None:
    """Raise InvalidValueError if a study is too large to plan; nothing is expanded before."""
    shards = [corpus.shards or 1 for corpus in study.corpora.values()]
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


def apply_overrides(base: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a block of settings, with those changes that belong to it."""
    fields = type(base).model_fields
    return base.model_dump() | {key: value for key, value in changes.items() if key in fields}


def unknown_name(key: str, name: str, names: Collection[str]) -> tuple[str, str]:
    """Return problem and remedy for a name that a study does not have: the nearest names that it has.

    >>> unknown_name("samples.models", "storys", ["stories", "docs"])
    ("samples.models names 'storys', which this study does not have", 'use stories')
    """
    return f"{key} names {short_repr(name)}, which this study does not have", nearest_names(name, names)


def nearest_names(name: str, names: Collection[str]) -> str:
    """Return the remedy for a wrong name: the nearest ones, or the first ones if none is near."""
    near = get_close_matches(name, names, n=3, cutoff=0.6) or [closest_match(name, names)]
    others = f"use one of {', '.join(list(names)[:12])}" if names else ""
    return f"use {' or '.join(near)}" if near[0] else others


def find(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    """Return the entry of a study with this name; else raise InputError with the nearest names."""
    if name not in entries:
        raise InputError(f"this study has no {kind} named {name}", remedy=nearest_names(name, entries))
    return entries[name]


def read_plan(path: str | Path) -> Plan:
    """Return the plan of a study file; raise InputError if it cannot be read or is no study."""
    return load_plan(read_study_file(path), str(path))


def load_plan(config: dict[str, Any], source: str, results_only: bool = False) -> Plan:
    """Validate a study and resolve it; raise InputError, which names the file `source`, if that fails.

    With `results_only`, the study's texts need not be there.
    """
    study = read_study(config, source, results_only)
    try:
        plan = Plan(study)
        for check in (check_best_of, check_targets, check_samples, check_case_collisions):
            check(plan)
    except InvalidValueError as error:
        raise error.at(source) from None
    return plan


# --- checks that no single setting can fail: names that refer to each other, and comparability ------------------------


def check_best_of(plan: Plan) -> None:
    """Raise InvalidValueError unless each best_of names an experiment on one corpus, without cycles."""
    sources = {name: {run.best_of for run in runs} - {None} for name, runs in plan.runs_by_experiment.items()}
    for name, best_of in sources.items():
        key = f"experiments.{name}.max_lr.best_of"
        for source in sorted(best_of):
            if source not in sources:
                raise InvalidValueError(*unknown_name(key, source, sources))
            corpora = list(dict.fromkeys(run.corpus for run in plan.runs_by_experiment[source]))
            if len(corpora) > 1:
                raise InvalidValueError(
                    f"{key} is {source}, whose runs are on {' and '.join(corpora)} and have losses that do not compare",
                    "take the rate from an experiment on one corpus",
                )
    for name in sources:
        reached, front = set(), {name}
        while front:
            front = set().union(*(sources[source] for source in front)) - reached
            reached |= front
        if name in reached:
            raise InvalidValueError(
                f"experiments.{name}: best_of leads back to {name}", "take the rate from another experiment"
            )


def check_targets(plan: Plan) -> None:
    """Raise InvalidValueError if an experiment with a target_loss has several tokenizers: losses do not compare."""
    for name, experiment in plan.study.experiments.items():
        tokenizers = list(dict.fromkeys(run.tokenizer for run in plan.runs_by_experiment[name]))
        if experiment.target_loss is not None and len(tokenizers) > 1:
            raise InvalidValueError(
                f"experiments.{name} has a target_loss and the tokenizers {' and '.join(tokenizers)}, whose losses do "
                "not compare",
                "set target_loss in an experiment with one tokenizer",
            )


def check_samples(plan: Plan) -> None:
    """Raise InvalidValueError unless each run that writes samples for a corpus exists and is on this corpus."""
    samples, runs = plan.study.samples, {f"{run.experiment}/{run.name}": run for run in plan.runs}
    if samples is None:
        return
    for corpus in samples.models:
        if corpus not in plan.study.corpora:
            raise InvalidValueError(*unknown_name("samples.models", corpus, plan.study.corpora))
        if isinstance(samples.prompts, dict) and corpus not in samples.prompts:
            raise InvalidValueError(f"samples.prompts has none for {corpus}", f"add {corpus}: [TEXT]")
    by_corpus = {"progress": samples.progress, "prompts": samples.prompts if isinstance(samples.prompts, dict) else {}}
    for key, block in by_corpus.items():
        for corpus in block:
            if corpus not in samples.models:
                raise InvalidValueError(*unknown_name(f"samples.{key}", corpus, samples.models))
    named = [(f"samples.models.{corpus}", corpus, name) for corpus, name in samples.models.items()]
    named += [
        (f"samples.progress.{corpus}", corpus, name) for corpus, names in samples.progress.items() for name in names
    ]
    for key, corpus, name in named:
        if name not in runs:
            raise InvalidValueError(*unknown_name(key, name, runs))
        if runs[name].corpus != corpus:
            raise InvalidValueError(
                f"{key} is {name}, which is trained on {runs[name].corpus}", f"name a run on {corpus}"
            )


def check_case_collisions(plan: Plan) -> None:
    """Raise InvalidValueError for names that differ in case alone, which some file systems do not distinguish."""
    names: dict[str, Iterable[str]] = {
        "corpora": plan.study.corpora,
        "experiments": plan.runs_by_experiment,
        "accounting.models": plan.models,
    }
    for experiment, runs in plan.runs_by_experiment.items():
        names[f"experiments.{experiment}"] = dict.fromkeys(run.name for run in runs)
    for key, group in names.items():
        seen: dict[str, str] = {}
        for name in group:
            if seen.setdefault(name.casefold(), name) != name:
                raise InvalidValueError(
                    f"{key} has {seen[name.casefold()]!r} and {name!r}, which differ in case alone", "rename one"
                )
