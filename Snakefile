# One study, from raw text to its report: snakemake --cores 2 [--configfile config/STUDY.yaml]
include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file does not set it
