# Training runs, the best run of a sweep, generated samples.


rule train:
    input:
        tokens=inputs.run_tokens,
        best=inputs.run_best,
    output:
        config="<results>/runs/{experiment}/{run}/seed{seed}/config.json",
        metrics="<results>/runs/{experiment}/{run}/seed{seed}/metrics.csv",
        summary="<results>/runs/{experiment}/{run}/seed{seed}/summary.json",
        weights="<results>/runs/{experiment}/{run}/seed{seed}/model.safetensors",
        provenance="<results>/runs/{experiment}/{run}/seed{seed}/provenance.json",
    log:
        "<logs>/train/{experiment}/{run}/seed{seed}.log",
    benchmark:
        "<benchmarks>/train/{experiment}/{run}/seed{seed}.tsv"
    priority: inputs.run_priority
    threads: TRAIN_THREADS
    resources:
        mem_mb=inputs.train.mem_mb,
        runtime=inputs.train.runtime,
        runs_per_gpu=1,
    params:
        results=subpath(output.config, ancestor=5),
        settings=inputs.run_settings,
        gpus=lambda wildcards, resources: requested_gpus(resources.get("gpu"), resources.get("gres")),
        code=stage_digest("train"),
    shell:
        "lmpipe train {params.results} {wildcards.experiment}/{wildcards.run}/seed{wildcards.seed}"
        " --threads {threads} --gpus {params.gpus} --runs-per-gpu {resources.runs_per_gpu}"
        " --time-limit {resources.runtime} 2> {log:q}"


rule select_best:
    input:
        inputs.experiment_files("config.json", "summary.json"),
    output:
        best="<results>/experiments/{experiment}/best.json",
        provenance="<results>/experiments/{experiment}/best.provenance.json",
    log:
        "<logs>/select_best/{experiment}.log",
    benchmark:
        "<benchmarks>/select_best/{experiment}.tsv"
    priority: inputs.best_priority
    localrule: True
    resources:
        mem_mb=500,
        runtime=5,
    params:
        results=subpath(output.best, ancestor=3),
        settings=inputs.settings("experiment", "experiment"),
        code=stage_digest("select_best"),
    shell:
        "lmpipe select-best {params.results} {wildcards.experiment} 2> {log:q}"


rule generate:
    input:
        run=inputs.sample_inputs,
        texts=expand("<results>/corpora/{{corpus}}/{split}.txt", split=["train", "valid"]),
    output:
        samples="<results>/samples/{corpus}.json",
        provenance="<results>/samples/{corpus}.provenance.json",
    log:
        "<logs>/generate/{corpus}.log",
    benchmark:
        "<benchmarks>/generate/{corpus}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=subpath(output.samples, ancestor=2),
        settings=inputs.settings("sample", "corpus"),
        code=stage_digest("generate"),
    shell:
        "lmpipe generate {params.results} {wildcards.corpus} 2> {log:q}"
