# Plots of the experiments, findings, the report, and the provenance of all results.

EXPERIMENT_FIGURES = ["learning_curves", "final_loss"]


rule plot_experiment:
    input:
        inputs.experiment_files("config.json", "metrics.csv", "summary.json"),
    output:
        curves=report(
            "<results>/experiments/{experiment}/learning_curves.svg",
            caption="../report/learning_curves.rst",
            category="Experiments",
            subcategory="{experiment}",
            labels={"figure": "learning curves"},
        ),
        final=report(
            "<results>/experiments/{experiment}/final_loss.svg",
            caption="../report/final_loss.rst",
            category="Experiments",
            subcategory="{experiment}",
            labels={"figure": "final loss"},
        ),
        table=report(
            "<results>/experiments/{experiment}/table.csv",
            caption="../report/table.rst",
            category="Experiments",
            subcategory="{experiment}",
            labels={"figure": "table of runs"},
        ),
        data=expand("<results>/experiments/{{experiment}}/{figure}.csv", figure=EXPERIMENT_FIGURES),
        provenance="<results>/experiments/{experiment}/provenance.json",
    log:
        "<logs>/plot_experiment/{experiment}.log",
    benchmark:
        "<benchmarks>/plot_experiment/{experiment}.tsv"
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        results=subpath(output.table, ancestor=3),
        settings=inputs.settings("experiment", "experiment"),
        code=stage_digest("plot_experiment"),
    shell:
        "lmpipe plot-experiment {params.results} {wildcards.experiment} 2> {log:q}"


rule analyze:
    input:
        inputs.records("analyze", "report"),
    output:
        findings="<results>/findings.json",
        runs="<results>/runs.csv",
        parquet="<results>/runs.parquet",
        provenance="<results>/findings.provenance.json",
    log:
        "<logs>/analyze.log",
    benchmark:
        "<benchmarks>/analyze.tsv"
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        results=subpath(output.findings, parent=True),
        settings=inputs.settings("study"),
        code=stage_digest("analyze"),
    shell:
        "lmpipe analyze {params.results} 2> {log:q}"


rule report:
    input:
        findings="<results>/findings.json",
        experiments=expand(
            "<results>/experiments/{experiment}/{figure}.{kind}",
            experiment=PLAN.runs_by_experiment,
            figure=EXPERIMENT_FIGURES,
            kind=["svg", "csv"],
        ),
        records=inputs.records("report"),
    output:
        page=report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="The report",
            labels={"figure": "every problem on one page"},
        ),
        figures=report(
            directory("<results>/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures of the report",
            labels={"figure": "{figure}"},
        ),
        provenance="<results>/report.provenance.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        results=subpath(output.page, parent=True),
        settings=inputs.settings("study"),
        code=stage_digest("report"),
    shell:
        "lmpipe report {params.results} 2> {log:q}"


rule collect_provenance:
    input:
        inputs.records(),
    output:
        "<results>/provenance.json",
        "<results>/SHA256SUMS",
    log:
        "<logs>/collect_provenance.log",
    benchmark:
        "<benchmarks>/collect_provenance.tsv"
    localrule: True
    resources:
        mem_mb=500,
        runtime=5,
    params:
        results=subpath(output[0], parent=True),
        settings=inputs.settings("study"),
    shell:
        "lmpipe collect-provenance {params.results} 2> {log:q}"
