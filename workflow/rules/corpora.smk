# Downloads, and the corpora made of them.


rule download:
    output:
        # Not removed before the job either, should another study have fetched it in the meantime.
        update("resources/{text}"),
    log:
        "<logs>/download/{text}.log",
    wildcard_constraints:
        text=one_of(MISSING_TEXTS),
    localrule: True
    params:
        settings=download_settings,
    shell:
        "lmpipe download --settings {params.settings:q} --output {output:q} 2> {log:q}"


rule make_corpus:
    input:
        texts=corpus_texts,
    output:
        train="<results>/corpora/{corpus}/train.txt",
        valid="<results>/corpora/{corpus}/valid.txt",
        record="<results>/corpora/{corpus}/corpus.json",
        provenance="<results>/corpora/{corpus}/provenance.json",
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
        corpus=corpus_json,
        code=code_of("make-corpus"),
    shell:
        "lmpipe make-corpus --settings {params.corpus:q} --output {params.folder:q} --threads {threads} 2> {log:q}"
