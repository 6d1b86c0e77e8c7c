# Downloads, and the corpora made of them.


rule download:
    output:
        update("resources/{text}"),  # another study may download it at the same time
    log:
        "<logs>/download/{text}.log",
    wildcard_constraints:
        text=name_pattern(inputs.missing_texts),
    localrule: True
    params:
        arguments=inputs.download_arguments,
    shell:
        "lmpipe download {params.arguments:q} --output {output:q} 2> {log:q}"


rule make_corpus:
    input:
        inputs.corpus_texts,
    output:
        train="<results>/corpora/{corpus}/train.txt",
        valid="<results>/corpora/{corpus}/valid.txt",
        info="<results>/corpora/{corpus}/corpus.json",
        provenance="<results>/corpora/{corpus}/provenance.json",
    log:
        "<logs>/make_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/make_corpus/{corpus}.tsv"
    priority: TEXT_PRIORITY
    threads: 2
    resources:
        mem_mb=inputs.make_corpus.mem_mb,
        runtime=inputs.make_corpus.runtime,
    params:
        results=subpath(output.info, ancestor=3),
        settings=inputs.settings("corpus", "corpus"),
        code=stage_digest("make_corpus"),
    shell:
        "lmpipe make-corpus {params.results} {wildcards.corpus} --threads {threads} 2> {log:q}"
