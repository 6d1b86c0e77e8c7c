# Training runs, the best of a sweep, and samples of text.


rule train:
    input:
        tokens=run_tokens,
        vocab=run_vocabulary,
        best=run_best,
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
    priority: run_priority
    threads: TRAIN_THREADS
    resources:
        mem_mb=run_asks_for("mem_mb"),
        runtime=run_asks_for("runtime"),
        runs_per_gpu=1,
    params:
        settings=run_settings,
        folder=subpath(output.config, parent=True),
        results=subpath(output.config, ancestor=5),
        best=run_best_flag,
        gpus=run_gpus,
        code=code_of("train"),
    shell:
        "lmpipe train --settings {params.settings:q} --results {params.results:q} {params.best:q}"
        " --output {params.folder:q} --threads {threads} --gpus {params.gpus}"
        " --runs-per-gpu {resources.runs_per_gpu} 2> {log:q}"


rule measure_batch_sizes:
    output:
        sizes="<results>/batch_sizes.json",
        provenance="<results>/batch_sizes.provenance.json",
    log:
        "<logs>/measure_batch_sizes.log",
    benchmark:
        "<benchmarks>/measure_batch_sizes.tsv"
    # All cores, so that nothing runs beside it; it computes with as many threads as a run.
    threads: ALL_CORES
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        settings=batch_size_settings,
        train_threads=TRAIN_THREADS,
        code=code_of("measure-batch-sizes"),
    shell:
        "lmpipe measure-batch-sizes --settings {params.settings:q} --output {output.sizes:q}"
        " --threads {params.train_threads} 2> {log:q}"


rule select_best:
    input:
        experiment_files("config.json", "summary.json"),
    output:
        best="<results>/experiments/{experiment}/best.json",
        provenance="<results>/experiments/{experiment}/best.provenance.json",
    log:
        "<logs>/select_best/{experiment}.log",
    benchmark:
        "<benchmarks>/select_best/{experiment}.tsv"
    priority: best_priority
    localrule: True
    resources:
        mem_mb=500,
        runtime=5,
    params:
        settings=experiment_settings,
        results=subpath(output.best, ancestor=3),
        code=code_of("select-best"),
    shell:
        "lmpipe select-best --settings {params.settings:q} --results {params.results:q}"
        " --output {output.best:q} 2> {log:q}"


rule generate:
    input:
        config=sample_run("config.json"),
        summary=sample_run("summary.json"),
        weights=sample_run("model.safetensors"),
        merges=shown_tokenizer,
        train="<results>/corpora/{corpus}/train.txt",
        valid="<results>/corpora/{corpus}/valid.txt",
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
        settings=sample_settings,
        run=subpath(input.config, parent=True),
        code=code_of("generate"),
    shell:
        "lmpipe generate --run {params.run:q} --settings {params.settings:q} --texts {input.train:q} {input.valid:q}"
        " --output {output.samples:q} 2> {log:q}"
