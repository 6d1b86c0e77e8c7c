# One study, from raw text to its report: snakemake --cores 2 [--configfile config/STUDY.yaml]
from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/study.rst"


include: "workflow/rules/study.smk"
include: "workflow/rules/common.smk"


pathvars:
    results=f"results/{STUDY.study}",
    logs=f"logs/{STUDY.study}",
    benchmarks=f"results/{STUDY.study}/benchmarks",


include: "workflow/rules/corpora.smk"
include: "workflow/rules/tokenizer.smk"
include: "workflow/rules/accounting.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "<results>/report.html",
        "<results>/provenance.json",


rule tokenizers:
    input:
        expand("<results>/tokenizers/{tokenizer}/tokenizer.json", tokenizer=PLAN.tokenizers),


rule accounting:
    input:
        expand("<results>/accounting/{model}.json", model=PLAN.models),


rule experiments:
    input:
        expand("<results>/experiments/{experiment}/table.csv", experiment=PLAN.runs_by_experiment),


rule samples:
    input:
        expand("<results>/samples/{corpus}.json", corpus=SHOWN_CORPORA),


onsuccess:
    print(f"The results lie in results/{STUDY.study}/; the whole study's report there is report.html.")


onerror:
    print(f"The study is incomplete. For a report of what exists: lmpipe report results/{STUDY.study}")
