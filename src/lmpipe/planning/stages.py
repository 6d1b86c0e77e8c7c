"""The stages of the workflow: one row for each rule, which all other lists of stages are made from."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.provenance.code_digest import code_digest
from lmpipe.provenance.job_records import RECORD
from lmpipe.study.paths import StudyPaths

if TYPE_CHECKING:
    from lmpipe.planning.plan import Plan

Outputs = Callable[["Plan", StudyPaths], Iterable[Path]]
# Problems whose answers alone need the results of a rule; a study whose report answers none of them has no such jobs.
PROBLEMS_OF = {
    "evaluate_tokenizers": ("train_bpe_tinystories", "train_bpe_expts_owt", "tokenizer_experiments"),
    "demonstrate_unicode": ("unicode1", "unicode2"),
    "account_models": ("transformer_accounting", "adamw_accounting"),
    "profile_model": ("transformer_accounting", "adamw_accounting"),
    "benchmark_batch_sizes": ("transformer_accounting", "batch_size_experiment"),
    "sgd_toy": ("learning_rate_tuning",),
}


@dataclass(frozen=True)
class Stage:
    """A rule of the workflow.

    `label` is the name of the results in `lmpipe status`. `code` names the modules, and data files or folders, of which
    a change reruns the jobs. `outputs` returns a path for each job of a plan: the file that it writes, or the folder
    that it fills. Stages without code leave no record of provenance.
    """

    rule: str
    label: str
    code: tuple[str, ...]
    outputs: Outputs
    fills_folder: bool = False

    @property
    def command(self) -> str:
        """Subcommand of lmpipe that does the work: named like the rule, but both rules that encode share one."""
        return "encode" if self.rule.startswith("encode_") else self.rule.replace("_", "-")

    def record(self, output: Path) -> Path:
        """Return the path of a job's record of provenance, given the job's output."""
        return output / RECORD if self.fills_folder else output.with_suffix(f".{RECORD}")

    def records(self, plan: "Plan") -> list[str]:
        """Return the records of the stage's jobs in a study, as paths below the results folder; none without code."""
        is_needed = self.rule not in PROBLEMS_OF or not plan.problems.keys().isdisjoint(PROBLEMS_OF[self.rule])
        outputs = self.outputs(plan, StudyPaths(Path())) if self.code and is_needed else ()
        return [self.record(output).as_posix() for output in outputs]


def _pretokens(plan: "Plan", paths: StudyPaths) -> list[Path]:
    corpora = [(name, corpus) for name, corpus in plan.study.corpora.items() if not corpus.tokenizer.path]
    return [paths.pretokens(name, shard) for name, corpus in corpora for shard in range(corpus.num_shards)]


def _encoded_files(plan: "Plan", paths: StudyPaths) -> list[Path]:
    """Token files that are encoded in one job: those of validation texts, and of training texts without shards."""
    sharded = plan.sharded_tokenizers()
    splits = [(name, split) for name in plan.tokenizers for split in ("train", "valid")]
    return [paths.tokens(name, split) for name, split in splits if split == "valid" or name not in sharded]


# In the order in which data flows.
STAGES = (
    Stage("download", "downloads", (), lambda plan, _: map(Path, plan.downloads())),
    Stage(
        "make_corpus",
        "corpora",
        ("data.corpus", "data/sources/story_text"),
        lambda plan, paths: map(paths.corpus, plan.study.corpora),
        fills_folder=True,
    ),
    Stage("count_pretokens", "pre-tokens", ("tokenizer.pretoken_counts",), _pretokens),
    Stage(
        "train_bpe",
        "tokenizers",
        ("tokenizer.bpe_training",),
        lambda plan, paths: map(paths.tokenizer, plan.trained_tokenizers()),
        fills_folder=True,
    ),
    Stage(
        "import_tokenizer",
        "tokenizers",
        ("tokenizer.existing",),
        lambda plan, paths: map(paths.tokenizer, plan.existing_tokenizers()),
        fills_folder=True,
    ),
    Stage("encode_corpus", "tokens", ("data.encode",), _encoded_files),
    # Shards are temporary: the record of the concatenated file describes them.
    Stage("encode_shard", "tokens", ("data.encode",), lambda plan, paths: ()),
    Stage(
        "concat_tokens",
        "tokens",
        ("data.encode",),
        lambda plan, paths: (paths.tokens(name, "train") for name in plan.sharded_tokenizers()),
    ),
    Stage(
        "evaluate_tokenizers",
        "tokenizer evaluation",
        ("tokenizer.evaluation",),
        lambda plan, paths: [paths.tokenizer_evaluation],
    ),
    Stage(
        "yardsticks", "yardsticks", ("data.yardsticks",), lambda plan, paths: map(paths.yardsticks, plan.study.corpora)
    ),
    Stage("demonstrate_unicode", "unicode", ("tokenizer.unicode_demo",), lambda plan, paths: [paths.unicode]),
    Stage(
        "account_models",
        "accounting",
        ("model.torch_counts", "study/editions"),
        lambda plan, paths: [paths.accounting("study").parent],
        fills_folder=True,
    ),
    Stage("profile_model", "measurements", ("training.profiling",), lambda plan, paths: [paths.model_profile]),
    Stage("benchmark_batch_sizes", "measurements", ("training.profiling",), lambda plan, paths: [paths.batch_sizes]),
    Stage("sgd_toy", "SGD toy", ("training.sgd_toy",), lambda plan, paths: [paths.sgd_toy]),
    Stage(
        "train",
        "training runs",
        ("training.run",),
        lambda plan, paths: (paths.run(run.experiment, run.name, run.seed) for run in plan.runs),
        fills_folder=True,
    ),
    Stage(
        "select_best",
        "best runs",
        ("analysis.ranking",),
        # Of the experiments whose best learning rate others take.
        lambda plan, paths: map(paths.best, sorted({run.best_of for run in plan.runs} - {None})),
    ),
    Stage(
        "generate", "samples", ("generation.samples",), lambda plan, paths: map(paths.samples, plan.sampled_corpora())
    ),
    Stage(
        "plot_experiment",
        "plots",
        ("report.plots.experiment", "report/templates/figures.mplstyle"),
        lambda plan, paths: map(paths.experiment, plan.runs_by_experiment),
        fills_folder=True,
    ),
    Stage("analyze", "findings", ("analysis.problems", "study/editions"), lambda plan, paths: [paths.findings]),
    Stage("report", "report", ("report.page", "report/templates"), lambda plan, paths: [paths.report]),
    Stage("collect_provenance", "provenance", (), lambda plan, paths: [paths.provenance]),
)
BY_RULE = {stage.rule: stage for stage in STAGES}
# The first of the rules with one command represents it.
BY_COMMAND = {stage.command: stage for stage in reversed(STAGES)}


def stage_digest(rule: str) -> dict[str, str]:
    """Return the digest of the code of a rule's stage, by module."""
    return code_digest(*BY_RULE[rule].code)


def records(plan: "Plan", without: Collection[str] = ()) -> list[str]:
    """Return the records of all jobs of a plan but those of the rules `without`, as paths below the results folder."""
    return [path for stage in STAGES if stage.rule not in without for path in stage.records(plan)]
