# What needs no corpus: the Unicode problems, the accounting, the SGD toy.


rule explore_unicode:
    output:
        answers="<results>/unicode.json",
        provenance="<results>/unicode.provenance.json",
    log:
        "<logs>/explore_unicode.log",
    benchmark:
        "<benchmarks>/explore_unicode.tsv"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=code_of("explore-unicode"),
    shell:
        "lmpipe explore-unicode --output {output.answers:q} 2> {log:q}"


rule account_model:
    output:
        accounting="<results>/accounting/{model}.json",
        provenance="<results>/accounting/{model}.provenance.json",
    log:
        "<logs>/account_model/{model}.log",
    benchmark:
        "<benchmarks>/account_model/{model}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=model_settings,
        code=code_of("account-model"),
    shell:
        "lmpipe account-model --settings {params.settings:q} --output {output.accounting:q} 2> {log:q}"


rule measure_model:
    output:
        measurements="<results>/model_measurements.json",
        provenance="<results>/model_measurements.provenance.json",
    log:
        "<logs>/measure_model.log",
    benchmark:
        "<benchmarks>/measure_model.tsv"
    # All cores, so that nothing runs beside it; it computes with as many threads as a run.
    threads: ALL_CORES
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        settings=batch_size_settings,
        train_threads=TRAIN_THREADS,
        code=code_of("measure-model"),
    shell:
        "lmpipe measure-model --settings {params.settings:q} --output {output.measurements:q}"
        " --threads {params.train_threads} 2> {log:q}"


rule tune_sgd_toy:
    output:
        losses="<results>/learning_rate_tuning.csv",
        provenance="<results>/learning_rate_tuning.provenance.json",
    log:
        "<logs>/tune_sgd_toy.log",
    benchmark:
        "<benchmarks>/tune_sgd_toy.tsv"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=code_of("tune-sgd-toy"),
    shell:
        "lmpipe tune-sgd-toy --output {output.losses:q} 2> {log:q}"
