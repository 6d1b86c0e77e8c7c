# Downloads, and the corpora made of them.


rule download:
    output:
        "resources/{key,[0-9a-f]{12}}-{filename}",
    log:
        "logs/download/{key}-{filename}.log",
    retries: 3
    localrule: True
    params:
        settings=download_settings,
    shell:
        "lmpipe download --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule make_corpus:
    input:
        texts=corpus_texts,
        valid=corpus_valid_texts,
    output:
        train="<results>/corpora/{corpus}/train.txt",
        valid="<results>/corpora/{corpus}/valid.txt",
        record="<results>/corpora/{corpus}/corpus.json",
    log:
        "<logs>/make_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/make_corpus/{corpus}.tsv"
    threads: 2
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        settings=corpus_settings,
        folder=subpath(output.record, parent=True),
        code=code_digest("corpora"),
    shell:
        "lmpipe make-corpus --settings {params.settings:q} --texts {input.texts:q} --valid {input.valid:q}"
        " --output {params.folder:q} --threads {threads} 2> {log:q}"
