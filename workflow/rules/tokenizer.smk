# Pre-token counts, tokenizers, token files, and the comparison of tokenizers.
# Jobs whose time is a result take all cores, so that nothing runs beside them.


rule count_pretokens:
    input:
        "<results>/corpora/{corpus}/train.txt",
    output:
        counts="<results>/pretokens/{corpus}/{shard}.npz",
        record="<results>/pretokens/{corpus}/{shard}.json",
    log:
        "<logs>/count_pretokens/{corpus}-{shard}.log",
    benchmark:
        "<benchmarks>/count_pretokens/{corpus}-{shard}.tsv"
    threads: workflow.cores
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        shards=shards_of,
        code=code_digest("pretokenize"),
    shell:
        "lmpipe count-pretokens --text {input:q} --shard {wildcards.shard} --shards {params.shards}"
        " --output {output.counts:q} 2> {log:q}"


rule train_bpe:
    input:
        counts=pretoken_counts,
    output:
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
        export="<results>/tokenizers/{tokenizer}/tokenizer.json",
        record="<results>/tokenizers/{tokenizer}/training.json",
    log:
        "<logs>/train_bpe/{tokenizer}.log",
    benchmark:
        "<benchmarks>/train_bpe/{tokenizer}.tsv"
    threads: workflow.cores
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        corpus=tokenizer_corpus,
        vocab_size=tokenizer_vocab_size,
        folder=subpath(output.record, parent=True),
        code=code_digest("bpe"),
    shell:
        "lmpipe train-bpe --counts {input.counts:q} --corpus {params.corpus:q} --vocab-size {params.vocab_size}"
        " --output {params.folder:q} 2> {log:q}"


rule encode_corpus:
    input:
        text=tokenizer_text,
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
    output:
        tokens="<results>/tokens/{tokenizer}/{split}.bin",
        record="<results>/tokens/{tokenizer}/{split}.json",
    log:
        "<logs>/encode_corpus/{tokenizer}-{split}.log",
    benchmark:
        "<benchmarks>/encode_corpus/{tokenizer}-{split}.tsv"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        tokenizer=subpath(input.vocab, parent=True),
        code=code_digest("tokens"),
    shell:
        "lmpipe encode-corpus --text {input.text:q} --tokenizer {params.tokenizer:q} --output {output.tokens:q} 2> {log:q}"


rule compare_tokenizers:
    input:
        texts=expand("<results>/corpora/{corpus}/{split}.txt", corpus=STUDY.corpora, split=["train", "valid"]),
        vocabs=expand("<results>/tokenizers/{tokenizer}/vocab.json", tokenizer=PLAN.tokenizers),
        merges=expand("<results>/tokenizers/{tokenizer}/merges.txt", tokenizer=PLAN.tokenizers),
        tokens=expand("<results>/tokens/{tokenizer}/train.json", tokenizer=PLAN.tokenizers),
    output:
        "<results>/tokenizer_experiments.json",
    log:
        "<logs>/compare_tokenizers.log",
    benchmark:
        "<benchmarks>/compare_tokenizers.tsv"
    threads: workflow.cores
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        settings=comparison_settings,
        results=subpath(output[0], parent=True),
        code=code_digest("compression"),
    shell:
        "lmpipe compare-tokenizers --settings {params.settings:q} --results {params.results:q} --output {output:q} 2> {log:q}"
