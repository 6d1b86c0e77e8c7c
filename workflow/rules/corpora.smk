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
        valid=corpus_valid_texts,
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
        # Only for Snakemake's record of the job, which keeps the input in no order.
        order=corpus_order,
        folder=subpath(output.record, parent=True),
        declared=declared_texts,
        code=code_of("make-corpus"),
    shell:
        "lmpipe make-corpus --settings {params.settings:q} --texts {input.texts:q} --valid {input.valid:q}"
        " --declared {params.declared:q} --output {params.folder:q} --threads {threads} 2> {log:q}"
