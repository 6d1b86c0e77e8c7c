# The plan of the study, wildcard constraints, and hooks. What the rules look up is in lmpipe.planning.rule_inputs.
import os
import shlex
import sys
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.files import lock_until_exit
from lmpipe.planning.rule_inputs import CLUSTER_THREADS, RuleInputs, name_pattern
from lmpipe.planning.session import mark_job_start, start_session
from lmpipe.planning.snakemake_checks import (
    load_config,
    notices,
    prepare_execution,
    read_study_files,
    requested_gpus,
)
from lmpipe.planning.stages import stage_digest
from lmpipe.planning.workflow_log import announce, attach

DEFAULT_STUDY = str(workflow.source_path("../../config/config.yaml"))
STUDY_FILES = list(map(os.path.relpath, workflow.configfiles or [DEFAULT_STUDY]))

try:
    read_study_files(STUDY_FILES)  # stricter than Snakemake's own reader
except InputError as error:
    sys.exit(str(error))

if not workflow.overwrite_configfiles:

    configfile: DEFAULT_STUDY


try:
    PLAN = load_config(config, STUDY_FILES, workflow.config_settings.config)
except InputError as error:
    sys.exit(str(error))
STUDY, inputs, RESULTS = PLAN.study, RuleInputs(PLAN), f"results/{PLAN.study.study}"
TRAIN_THREADS = 1  # --set-threads train=4 uses more; a run's last digits depend on them
TEXT_PRIORITY = 1_000_000  # texts take all cores, which training runs never leave free at once
# A cluster's job is a snakemake of its own, which must get the same number.
CORES = workflow.resource_settings.cores
ALL_CORES = CLUSTER_THREADS if CORES is None or workflow.remote_exec else CORES

if workflow.is_main_process:
    attach(workflow)
    # Two calls at once would remove each other's results: the second one waits, and then finds the work done. A call
    # without cores or nodes (--dag, --report, --summary) runs no jobs, nor does --lint, which checks no variables.
    runs_jobs = (CORES or workflow.resource_settings.nodes) and workflow.check_envvars
    if runs_jobs and not workflow.output_settings.dryrun:
        lock_path = f".snakemake/studies/{STUDY.study}.lock"
        lock_until_exit(lock_path, f"waiting for the snakemake that works on {STUDY.study}")
    for notice in notices(PLAN, shlex.join(STUDY_FILES), workflow):
        print(notice, file=sys.stderr)


mark_job_start(workflow.remote_exec)
# The lmpipe beside this snakemake, even if its environment is not activated.
shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


# RuleInputs reports an unknown corpus, experiment, run and the like, with the nearest known names.
wildcard_constraints:
    corpus="[^/]+",
    tokenizer="[^/]+",
    experiment="[^/]+",
    run="[^/]+",
    split="train|valid",
    shard="[0-9]+",
    seed="[0-9]+",


onstart:
    try:
        prepare_execution(PLAN, workflow)
        start_session(PLAN, workflow.resource_settings.cores, sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))


onsuccess:
    report_page = Path(RESULTS, "report.html")
    announce(f"The report is {report_page}." if report_page.exists() else f"Results are in {RESULTS}/.")


onerror:
    announce(f"Not finished. `lmpipe report {RESULTS}` makes a report of the results so far.")
