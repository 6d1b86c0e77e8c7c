# Tiny helpers: the plan of the study, and what the rules look up in it.
import json
import os
import re
import shlex
import sys

from lmpipe.errors import InputError
from lmpipe.planning.session import begin
from lmpipe.planning.cost_model import (
    CPU_CORE,
    count_request,
    encode_request,
    encode_shard_request,
    join_request,
    merge_request,
    run_cost,
    critical_path_seconds,
    train_request,
)
from lmpipe.planning.estimate import notice
from lmpipe.io.locks import lock_until_exit
from lmpipe.planning.plan import load_plan
from lmpipe.planning.snakemake_checks import (
    check_array_limits,
    check_interpreter,
    requested_gpus,
    missing_gpu_total_warning,
    max_ready_jobs,
    only_looks,
)
from lmpipe.provenance.code_digest import code_of
from lmpipe.planning.stages import records_of

STUDY_FILES = list(map(os.path.relpath, workflow.configfiles))

try:
    PLAN = load_plan(config, ", ".join(STUDY_FILES) or "--config")
except InputError as error:
    sys.exit(str(error))

STUDY = PLAN.study

# Two calls at once would remove each other's results, as Snakemake does before each job: the second waits, and then
# finds the work done. The system frees the lock however a call ends, so that none is ever left behind.
if workflow.is_main_process and not only_looks(sys.argv[1:]):
    lock_until_exit(f".snakemake/studies/{STUDY.study}.lock", f"waiting for the snakemake that works on {STUDY.study}")

SHOWN_CORPORA = list(STUDY.samples.models) if STUDY.samples else []
DOWNLOADS = PLAN.downloads()
# A text that is there is a source file for Snakemake, which it never removes: neither other settings nor other code, a
# forced call or a killed one can cost it. Only what is missing is the output of a job.
MISSING_TEXTS = [path.removeprefix("resources/") for path in DOWNLOADS if not os.path.exists(path)]
SHARDED_TOKENIZERS = PLAN.sharded_tokenizers()
# A run has the same digits whatever --cores is.
TRAIN_THREADS = 1
SECONDS_AFTER = critical_path_seconds(PLAN)
# Threads of a job that works with all cores it gets: those given to Snakemake, or so many of a cluster's node, of which
# Snakemake knows nothing when it submits the job; the job itself must come to the same number.
CLUSTER_THREADS = 4
GIVEN_CORES = workflow.resource_settings.cores
ALL_CORES = CLUSTER_THREADS if GIVEN_CORES is None or workflow.remote_exec else GIVEN_CORES
RECORDS = [path for paths in records_of(PLAN).values() for path in paths]
RECORDS_BEFORE_REPORT = [path for path in RECORDS if path != "report.provenance.json"]


def one_of(names):
    """A constraint: one of some names. The last choice matches nothing: Snakemake takes an empty constraint for none."""
    return "|".join([*map(re.escape, names), "(?!)"])


# Told once, by the process that a user started, before the first job.
if workflow.is_main_process:
    asked = workflow.resource_settings.overwrite_resources
    asking_for_gpu = [rule for rule, resources in asked.items() if "gpu" in resources and workflow.local_exec]
    for told in (
        notice(PLAN, shlex.join(STUDY_FILES), os.cpu_count()),
        missing_gpu_total_warning(asking_for_gpu, workflow.resource_settings.resources),
    ):
        if told:
            print(told, file=sys.stderr)


# Jobs on a cluster begin as calls of their own. Snakemake tells the settings of an executor no earlier.
onstart:
    if workflow.is_main_process:
        rate = workflow.scheduling_settings.max_jobs_per_timespan
        limits = {"--jobs": workflow.resource_settings.nodes, "--max-jobs-per-timespan": rate and rate.max_jobs}
        try:
            if not workflow.local_exec:
                check_interpreter(sys.executable)
            check_array_limits(getattr(workflow.executor_settings, "array_jobs", None), limits, max_ready_jobs(PLAN))
        except InputError as error:
            sys.exit(str(error))
        begin(PLAN, workflow.resource_settings.cores, sys.argv[1:])


# The lmpipe that belongs to this snakemake, also where its environment was not activated.
shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    corpus="|".join(map(re.escape, STUDY.corpora)),
    tokenizer="|".join(map(re.escape, PLAN.tokenizers)),
    split="train|valid",
    shard="[0-9]+",
    experiment="|".join(map(re.escape, PLAN.runs_by_experiment)),
    run="[^/]+",
    seed="[0-9]+",
    model="|".join(map(re.escape, PLAN.models)),


def as_json(value):
    """Settings as the one JSON argument of a subcommand."""
    return json.dumps(value, ensure_ascii=False)


def study_settings(wildcards):
    return as_json(STUDY.model_dump(mode="json", exclude_none=True))


def download_settings(wildcards):
    return as_json(DOWNLOADS[f"resources/{wildcards.text}"])


def dateless(path):
    """A text that is named by its checksum stays the same, whenever it was fetched."""
    return ancient(path) if DOWNLOADS.get(path, {}).get("sha256") else path


def corpus_texts(wildcards):
    return list(map(dateless, STUDY.corpora[wildcards.corpus].text_paths()))


def corpus_json(wildcards, input):
    # Snakemake does not record what is derived from the input: a word more about the same texts reruns nothing.
    corpus = STUDY.corpora[wildcards.corpus].model_dump(mode="json")
    return as_json({"name": wildcards.corpus, "corpus": corpus})


def corpus_settings(wildcards):
    block = STUDY.corpora[wildcards.corpus]
    parts = [len(getattr(block, "files", ())), len(getattr(block, "valid", None) or ())]
    return as_json([wildcards.corpus, block.text_settings(), block.text_paths(), parts])


def shards_of(wildcards):
    return STUDY.corpora[wildcards.corpus].shards


def pretoken_counts(wildcards):
    corpus, _ = PLAN.tokenizers[wildcards.tokenizer]
    return expand("<results>/pretokens/{corpus}/{shard}.npz", corpus=corpus, shard=range(STUDY.corpora[corpus].shards))


def tokenizer_corpus(wildcards):
    return PLAN.tokenizers[wildcards.tokenizer][0]


def tokenizer_vocab_size(wildcards):
    return PLAN.tokenizers[wildcards.tokenizer][1]


def tokenizer_text(wildcards):
    corpus, _ = PLAN.tokenizers[wildcards.tokenizer]
    return f"<results>/corpora/{corpus}/{wildcards.split}.txt"


def tokenizer_train_text(wildcards):
    return f"<results>/corpora/{tokenizer_corpus(wildcards)}/train.txt"


def tokenizer_shards(wildcards):
    return STUDY.corpora[tokenizer_corpus(wildcards)].shards


def token_shards(kind):
    """An input function: these files of all shards of the encoded training text, in their order."""

    def files(wildcards):
        shards = range(tokenizer_shards(wildcards))
        folder = f"<results>/tokens/{wildcards.tokenizer}/train-shards"
        return [f"{folder}/{shard}.{kind}" for shard in shards]

    return files


def comparison_settings(wildcards):
    tokenizers = {name: corpus for name, (corpus, _) in PLAN.tokenizers.items()}
    return as_json({"corpora": list(STUDY.corpora), "tokenizers": tokenizers})


def model_settings(wildcards):
    model = PLAN.models[wildcards.model].model_dump(mode="json")
    return as_json({"name": wildcards.model, "model": model, "device_memory_gb": STUDY.accounting.device_memory_gb})


def batch_size_settings(wildcards):
    model = PLAN.models["study"].model_dump(mode="json")
    return as_json({"model": model, "training": STUDY.training.model_dump(mode="json")})


def planned_run(wildcards):
    return PLAN.runs_by_folder[f"runs/{wildcards.experiment}/{wildcards.run}/seed{wildcards.seed}"]


def run_settings(wildcards):
    return planned_run(wildcards).model_dump_json()


def run_priority(wildcards):
    # First what takes longest together with all that waits for it, so that no core is left idle at the end.
    run = planned_run(wildcards)
    return round(run_cost(PLAN, run).seconds(CPU_CORE) + SECONDS_AFTER[run.experiment])


def best_priority(wildcards):
    return round(SECONDS_AFTER[wildcards.experiment])


def run_gpus(wildcards, resources):
    # A profile may ask for several GPUs for a run: set-resources: train: gpu: 4, or on a cluster gres: "gpu:4".
    return requested_gpus(resources.get("gpu"), resources.get("gres"))


def run_asks_for(what):
    """An input function: the memory (mem_mb) or the time (runtime) that training the run asks a cluster for."""

    def asked(wildcards):
        return getattr(train_request(PLAN, planned_run(wildcards)), what)

    return asked


def corpus_asks_for(request, what):
    """An input function: the same for a job on a corpus, or on the corpus of a tokenizer."""

    def asked(wildcards):
        corpus = wildcards.corpus if "corpus" in wildcards.keys() else tokenizer_corpus(wildcards)
        return getattr(request(STUDY.corpora[corpus]), what)

    return asked


def every_corpus_asks_for(request, what):
    """The same for jobs that travel as an array, whose tasks all get what the first one asks for: enough for any corpus."""
    return max(getattr(request(corpus), what) for corpus in STUDY.corpora.values())


def run_tokens(wildcards):
    tokenizer = planned_run(wildcards).tokenizer
    return expand(
        "<results>/tokens/{tokenizer}/{split}.{kind}",
        tokenizer=tokenizer,
        split=["train", "valid"],
        kind=["bin", "json"],
    )


def run_vocabulary(wildcards):
    return f"<results>/tokenizers/{planned_run(wildcards).tokenizer}/vocab.json"


def run_best(wildcards):
    source = planned_run(wildcards).best_of
    return f"<results>/experiments/{source}/best.json" if source else []


def run_best_flag(wildcards, input):
    return ["--best", input.best] if input.best else []


def experiment_files(*names):
    """An input function: these files of every run of the experiment."""

    def files(wildcards):
        folders = [run.folder for run in PLAN.runs_by_experiment[wildcards.experiment]]
        return expand("<results>/{folder}/{name}", folder=folders, name=names)

    return files


def experiment_settings(wildcards):
    runs = PLAN.run_keys()[wildcards.experiment]
    return as_json({"experiment": wildcards.experiment, "runs": runs})


def sample_run(name):
    """An input function: a file of the run whose model speaks for the corpus."""

    def file(wildcards):
        return f"<results>/{PLAN.sample_run(wildcards.corpus).folder}/{name}"

    return file


def shown_tokenizer(wildcards):
    return f"<results>/tokenizers/{PLAN.sample_run(wildcards.corpus).tokenizer}/merges.txt"


def sample_settings(wildcards):
    run = PLAN.sample_run(wildcards.corpus).model_dump(mode="json")
    return as_json({"samples": STUDY.samples.model_dump(mode="json") | {"models": {}}, "run": run})
