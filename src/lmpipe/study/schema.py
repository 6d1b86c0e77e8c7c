"""The study file as a whole."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError

from lmpipe.io.validation import first_violation
from lmpipe.study.corpora import END_OF_TEXT, RESULTS_ONLY, Corpus
from lmpipe.study.experiments import ExperimentName, ExperimentSettings
from lmpipe.study.fields import (
    FiniteFloat,
    Label,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seeds,
    Settings,
    validate_unique,
)
from lmpipe.study.settings import ModelConfig, ModelSettings, TrainingSettings


class AccountingSettings(Settings):
    """Models whose parameters, FLOPs and memory are computed without training."""

    models: dict[Name, ModelConfig] = Field(default_factory=dict)
    """Models by name; the study's own model is always among them."""
    device_memory_gb: PositiveFloat = 80.0
    """Memory of the device in GB (1e9 bytes)."""


# An empty prompt starts a new document. With a constraint on its length, pydantic refuses text that UTF-8 cannot hold.
Prompt = Annotated[str, Field(min_length=0), AfterValidator(lambda prompt: prompt or END_OF_TEXT)]
PromptList = Annotated[list[Prompt], Field(min_length=1)]
Prompts = Annotated[
    Annotated[PromptList, Tag("list")] | Annotated[dict[Name, PromptList], Tag("by_corpus")],
    Discriminator(lambda value: "by_corpus" if isinstance(value, dict) else "list"),
]


class SamplesSettings(Settings):
    """Text to generate, with every combination of prompt, temperature and top_p."""

    models: dict[Name, str]
    """Run whose model represents a corpus, by corpus: `EXPERIMENT/RUN`."""
    progress: dict[Name, Annotated[list[str], Field(min_length=1), AfterValidator(validate_unique)]] = Field(
        default_factory=dict
    )
    """Runs of growing budgets, by corpus: each writes one short text for the report's first figure."""
    prompts: Prompts
    """Texts to continue: a list for every corpus, or lists by corpus. An empty one starts a new document."""
    seeds: Seeds = Field(default_factory=lambda: [0])
    """Seeds of the sampling; greedy decoding uses none."""
    max_new_tokens: PositiveInt = 256
    """Tokens of a sample at most."""
    temperature: Annotated[list[NonNegativeFloat], Field(min_length=1), AfterValidator(validate_unique)]
    """Temperatures; 0 is greedy decoding."""
    top_p: Annotated[
        list[Annotated[FiniteFloat, Field(gt=0, le=1)]], Field(min_length=1), AfterValidator(validate_unique)
    ]
    """Probability masses of nucleus sampling; 1 samples from all tokens."""

    def prompts_for(self, corpus: str) -> list[str]:
        """Return the prompts of the samples for a corpus."""
        return self.prompts[corpus] if isinstance(self.prompts, dict) else self.prompts


class Study(Settings):
    """A study file, complete in itself."""

    study: Name
    """Name of the study: its results are in `results/STUDY/`."""
    label: Label | None = None
    """Name in the report; the key `study` if not set."""
    handout: Literal["cs336-2026", "cs336-2025", "none"] = "cs336-2026"
    """Edition of the CS336 handout whose problems the report answers; with `none` it has the study's own sections."""
    seeds: Seeds
    """Each run is trained once for each seed."""
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    """Corpora by name."""
    model: ModelSettings
    """The transformer of all runs; an experiment can change its settings."""
    training: TrainingSettings
    """Settings of all training runs; an experiment can change them."""
    experiments: Annotated[dict[ExperimentName, ExperimentSettings], Field(min_length=1)]
    """Experiments by name."""
    accounting: AccountingSettings = AccountingSettings()
    """Models to account for."""
    samples: SamplesSettings | None = None
    """Text to generate after training."""


def read_study(config: dict[str, Any], source: str, results_only: bool = False) -> Study:
    """Return the study that `config` describes; raise InputError if it is not valid. `source` names its file.

    With `results_only`, the study's texts need not be there: its results may be read in another folder or machine.
    """
    try:
        return Study.model_validate(config, context=RESULTS_ONLY if results_only else None)
    except ValidationError as error:
        raise first_violation(error, config).at(source) from None
