# Stages that need no corpus: the Unicode problems, accounting and measurements of models, the SGD toy.
# Measurements use all cores, so that nothing runs beside them, and compute with the threads of a training run.


rule demonstrate_unicode:
    output:
        demo="<results>/unicode.json",
        provenance="<results>/unicode.provenance.json",
    log:
        "<logs>/demonstrate_unicode.log",
    benchmark:
        "<benchmarks>/demonstrate_unicode.tsv"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=stage_digest("demonstrate_unicode"),
    shell:
        "lmpipe demonstrate-unicode --output {output.demo:q} 2> {log:q}"


rule account_models:
    output:
        accounting=expand("<results>/accounting/{model}.json", model=PLAN.models),
        provenance="<results>/accounting/provenance.json",
    log:
        "<logs>/account_models.log",
    benchmark:
        "<benchmarks>/account_models.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        results=subpath(output.provenance, ancestor=2),
        settings=inputs.settings("accounting"),
        code=stage_digest("account_models"),
    shell:
        "lmpipe account-models {params.results} 2> {log:q}"


rule profile_model:
    output:
        profile="<results>/model_measurements.json",
        provenance="<results>/model_measurements.provenance.json",
    log:
        "<logs>/profile_model.log",
    benchmark:
        "<benchmarks>/profile_model.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        results=subpath(output.profile, parent=True),
        settings=inputs.settings("step"),
        train_threads=TRAIN_THREADS,
        code=stage_digest("profile_model"),
    shell:
        "lmpipe profile-model {params.results} --threads {params.train_threads} 2> {log:q}"


rule benchmark_batch_sizes:
    output:
        sizes="<results>/batch_sizes.json",
        provenance="<results>/batch_sizes.provenance.json",
    log:
        "<logs>/benchmark_batch_sizes.log",
    benchmark:
        "<benchmarks>/benchmark_batch_sizes.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        results=subpath(output.sizes, parent=True),
        settings=inputs.settings("step"),
        train_threads=TRAIN_THREADS,
        code=stage_digest("benchmark_batch_sizes"),
    shell:
        "lmpipe benchmark-batch-sizes {params.results} --threads {params.train_threads} 2> {log:q}"


rule sgd_toy:
    output:
        losses="<results>/learning_rate_tuning.csv",
        provenance="<results>/learning_rate_tuning.provenance.json",
    log:
        "<logs>/sgd_toy.log",
    benchmark:
        "<benchmarks>/sgd_toy.tsv"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=stage_digest("sgd_toy"),
    shell:
        "lmpipe sgd-toy --output {output.losses:q} 2> {log:q}"
