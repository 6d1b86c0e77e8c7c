# What needs no corpus: the Unicode problems, the accounting, the SGD toy.


rule explore_unicode:
    output:
        "<results>/unicode.json",
    log:
        "<logs>/explore_unicode.log",
    benchmark:
        "<benchmarks>/explore_unicode.tsv"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=code_digest("unicode"),
    shell:
        "lmpipe explore-unicode --output {output:q} 2> {log:q}"


rule account_model:
    output:
        "<results>/accounting/{model}.json",
    log:
        "<logs>/account_model/{model}.log",
    benchmark:
        "<benchmarks>/account_model/{model}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=model_settings,
        code=code_digest("accounting"),
    shell:
        "lmpipe account-model --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule tune_sgd_toy:
    output:
        "<results>/learning_rate_tuning.csv",
    log:
        "<logs>/tune_sgd_toy.log",
    benchmark:
        "<benchmarks>/tune_sgd_toy.tsv"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=code_digest("optim"),
    shell:
        "lmpipe tune-sgd-toy --output {output:q} 2> {log:q}"
