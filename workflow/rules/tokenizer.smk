# Pre-token counts, tokenizers, token files, and the comparison of tokenizers.
# Jobs whose time is a result take all cores, so that nothing runs beside them.


rule count_pretokens:
    input:
        "<results>/corpora/{corpus}/train.txt",
    output:
        counts="<results>/pretokens/{corpus}/{shard}.npz",
        record="<results>/pretokens/{corpus}/{shard}.json",
        provenance="<results>/pretokens/{corpus}/{shard}.provenance.json",
    log:
        "<logs>/count_pretokens/{corpus}-{shard}.log",
    benchmark:
        "<benchmarks>/count_pretokens/{corpus}-{shard}.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=every_corpus_asks_for(count_request, "mem_mb"),
        runtime=every_corpus_asks_for(count_request, "runtime"),
    params:
        shards=shards_of,
        code=code_of("count-pretokens"),
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
        ranks="<results>/tokenizers/{tokenizer}/ranks.tiktoken",
        record="<results>/tokenizers/{tokenizer}/training.json",
        provenance="<results>/tokenizers/{tokenizer}/provenance.json",
    log:
        "<logs>/train_bpe/{tokenizer}.log",
    benchmark:
        "<benchmarks>/train_bpe/{tokenizer}.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=corpus_asks_for(merge_request, "mem_mb"),
        runtime=corpus_asks_for(merge_request, "runtime"),
    params:
        corpus=tokenizer_corpus,
        vocab_size=tokenizer_vocab_size,
        folder=subpath(output.record, parent=True),
        code=code_of("train-bpe"),
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
        provenance="<results>/tokens/{tokenizer}/{split}.provenance.json",
    log:
        "<logs>/encode_corpus/{tokenizer}-{split}.log",
    benchmark:
        "<benchmarks>/encode_corpus/{tokenizer}-{split}.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=corpus_asks_for(encode_request, "mem_mb"),
        runtime=corpus_asks_for(encode_request, "runtime"),
    params:
        tokenizer=subpath(input.vocab, parent=True),
        code=code_of("encode-corpus"),
    shell:
        "lmpipe encode-corpus --text {input.text:q} --tokenizer {params.tokenizer:q} --output {output.tokens:q} 2> {log:q}"


# Of a text in shards the training tokens are joined, not encoded at once.
ruleorder: join_tokens > encode_corpus


rule encode_shard:
    input:
        text=tokenizer_train_text,
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
    output:
        tokens=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.bin"),
        record=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.json"),
        provenance=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.provenance.json"),
    log:
        "<logs>/encode_shard/{tokenizer}-{shard}.log",
    benchmark:
        "<benchmarks>/encode_shard/{tokenizer}-{shard}.tsv"
    wildcard_constraints:
        tokenizer=one_of(SHARDED_TOKENIZERS),
    threads: ALL_CORES
    resources:
        mem_mb=every_corpus_asks_for(encode_shard_request, "mem_mb"),
        runtime=every_corpus_asks_for(encode_shard_request, "runtime"),
    params:
        tokenizer=subpath(input.vocab, parent=True),
        shards=tokenizer_shards,
        code=code_of("encode-corpus"),
    shell:
        "lmpipe encode-corpus --text {input.text:q} --tokenizer {params.tokenizer:q} --shard {wildcards.shard}"
        " --shards {params.shards} --output {output.tokens:q} 2> {log:q}"


rule join_tokens:
    input:
        tokens=token_shards("bin"),
        records=token_shards("json"),
        # What it says of each shard's making goes into the record of the joined file.
        provenance=token_shards("provenance.json"),
    output:
        tokens="<results>/tokens/{tokenizer}/train.bin",
        record="<results>/tokens/{tokenizer}/train.json",
        provenance="<results>/tokens/{tokenizer}/train.provenance.json",
    log:
        "<logs>/join_tokens/{tokenizer}.log",
    benchmark:
        "<benchmarks>/join_tokens/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=one_of(SHARDED_TOKENIZERS),
    resources:
        mem_mb=corpus_asks_for(join_request, "mem_mb"),
        runtime=corpus_asks_for(join_request, "runtime"),
    params:
        code=code_of("join-tokens"),
    shell:
        "lmpipe join-tokens --tokens {input.tokens:q} --output {output.tokens:q} 2> {log:q}"


rule compare_tokenizers:
    input:
        texts=expand("<results>/corpora/{corpus}/{split}.txt", corpus=STUDY.corpora, split=["train", "valid"]),
        vocabs=expand("<results>/tokenizers/{tokenizer}/vocab.json", tokenizer=PLAN.tokenizers),
        merges=expand("<results>/tokenizers/{tokenizer}/merges.txt", tokenizer=PLAN.tokenizers),
        tokens=expand("<results>/tokens/{tokenizer}/train.json", tokenizer=PLAN.tokenizers),
    output:
        comparison="<results>/tokenizer_experiments.json",
        provenance="<results>/tokenizer_experiments.provenance.json",
    log:
        "<logs>/compare_tokenizers.log",
    benchmark:
        "<benchmarks>/compare_tokenizers.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        settings=comparison_settings,
        results=subpath(output.comparison, parent=True),
        code=code_of("compare-tokenizers"),
    shell:
        "lmpipe compare-tokenizers --settings {params.settings:q} --results {params.results:q}"
        " --output {output.comparison:q} 2> {log:q}"
