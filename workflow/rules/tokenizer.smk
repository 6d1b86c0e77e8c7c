# Pre-token counts, tokenizers, token files, the evaluation of tokenizers, and yardsticks.
# Jobs whose time is a result use all cores, so that nothing runs beside them.


rule count_pretokens:
    input:
        "<results>/corpora/{corpus}/train.txt",
    output:
        counts="<results>/pretokens/{corpus}/{shard}.npz",
        info="<results>/pretokens/{corpus}/{shard}.json",
        provenance="<results>/pretokens/{corpus}/{shard}.provenance.json",
    log:
        "<logs>/count_pretokens/{corpus}-{shard}.log",
    benchmark:
        "<benchmarks>/count_pretokens/{corpus}-{shard}.tsv"
    priority: TEXT_PRIORITY
    threads: ALL_CORES
    resources:
        mem_mb=inputs.count.mem_mb,
        runtime=inputs.count.runtime,
    params:
        shards=inputs.num_shards,
        special_tokens=inputs.special_token_options,
        code=stage_digest("count_pretokens"),
    shell:
        "lmpipe count-pretokens --text {input:q} --shard {wildcards.shard} --shards {params.shards}"
        " {params.special_tokens:q} --output {output.counts:q} 2> {log:q}"


rule train_bpe:
    input:
        counts=inputs.pretoken_counts,
    output:
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
        export="<results>/tokenizers/{tokenizer}/tokenizer.json",
        ranks="<results>/tokenizers/{tokenizer}/ranks.tiktoken",
        info="<results>/tokenizers/{tokenizer}/training.json",
        provenance="<results>/tokenizers/{tokenizer}/provenance.json",
    log:
        "<logs>/train_bpe/{tokenizer}.log",
    benchmark:
        "<benchmarks>/train_bpe/{tokenizer}.tsv"
    priority: TEXT_PRIORITY
    threads: ALL_CORES
    resources:
        mem_mb=inputs.train_bpe.mem_mb,
        runtime=inputs.train_bpe.runtime,
    params:
        corpus=inputs.tokenizer_corpus,
        vocab_size=inputs.vocab_size,
        special_tokens=inputs.special_token_options,
        folder=subpath(output.info, parent=True),
        code=stage_digest("train_bpe"),
    shell:
        "lmpipe train-bpe --counts {input.counts:q} --corpus {params.corpus:q} --vocab-size {params.vocab_size}"
        " {params.special_tokens:q} --output {params.folder:q} 2> {log:q}"


# A tokenizer that exists already is not trained.
ruleorder: import_tokenizer > train_bpe


rule import_tokenizer:
    input:
        inputs.existing_tokenizer,
    output:
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
        export="<results>/tokenizers/{tokenizer}/tokenizer.json",
        ranks="<results>/tokenizers/{tokenizer}/ranks.tiktoken",
        info="<results>/tokenizers/{tokenizer}/training.json",
        provenance="<results>/tokenizers/{tokenizer}/provenance.json",
    log:
        "<logs>/import_tokenizer/{tokenizer}.log",
    benchmark:
        "<benchmarks>/import_tokenizer/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=name_pattern(PLAN.existing_tokenizers()),
    priority: TEXT_PRIORITY
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        corpus=inputs.tokenizer_corpus,
        vocab_size=inputs.vocab_size,
        folder=subpath(output.info, parent=True),
        code=stage_digest("import_tokenizer"),
    shell:
        "lmpipe import-tokenizer {input:q} --corpus {params.corpus:q} --vocab-size {params.vocab_size}"
        " --output {params.folder:q} 2> {log:q}"


rule encode_corpus:
    input:
        text=inputs.tokenizer_text,
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
    output:
        tokens="<results>/tokens/{tokenizer}/{split}.bin",
        info="<results>/tokens/{tokenizer}/{split}.json",
        provenance="<results>/tokens/{tokenizer}/{split}.provenance.json",
    log:
        "<logs>/encode_corpus/{tokenizer}-{split}.log",
    benchmark:
        "<benchmarks>/encode_corpus/{tokenizer}-{split}.tsv"
    priority: TEXT_PRIORITY
    threads: ALL_CORES
    resources:
        mem_mb=inputs.encode.mem_mb,
        runtime=inputs.encode.runtime,
    params:
        tokenizer=subpath(input.vocab, parent=True),
        code=stage_digest("encode_corpus"),
    shell:
        "lmpipe encode --text {input.text:q} --tokenizer {params.tokenizer:q} --output {output.tokens:q} 2> {log:q}"


# The training tokens of a text in shards are concatenated instead.
ruleorder: concat_tokens > encode_corpus


rule encode_shard:
    input:
        text=inputs.tokenizer_text,
        vocab="<results>/tokenizers/{tokenizer}/vocab.json",
        merges="<results>/tokenizers/{tokenizer}/merges.txt",
    output:
        tokens=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.bin"),
        info=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.json"),
        provenance=temp("<results>/tokens/{tokenizer}/train-shards/{shard}.provenance.json"),
    log:
        "<logs>/encode_shard/{tokenizer}-{shard}.log",
    benchmark:
        "<benchmarks>/encode_shard/{tokenizer}-{shard}.tsv"
    wildcard_constraints:
        tokenizer=name_pattern(PLAN.sharded_tokenizers()),
    priority: TEXT_PRIORITY
    threads: ALL_CORES
    resources:
        mem_mb=inputs.encode_shard.mem_mb,
        runtime=inputs.encode_shard.runtime,
    params:
        tokenizer=subpath(input.vocab, parent=True),
        shards=inputs.num_shards,
        code=stage_digest("encode_shard"),
    shell:
        "lmpipe encode --text {input.text:q} --tokenizer {params.tokenizer:q} --shard {wildcards.shard}"
        " --shards {params.shards} --output {output.tokens:q} 2> {log:q}"


rule concat_tokens:
    input:
        tokens=inputs.token_shards(".bin"),
        info=inputs.token_shards(".json"),
        provenance=inputs.token_shards(".provenance.json"),
    output:
        tokens="<results>/tokens/{tokenizer}/train.bin",
        info="<results>/tokens/{tokenizer}/train.json",
        provenance="<results>/tokens/{tokenizer}/train.provenance.json",
    log:
        "<logs>/concat_tokens/{tokenizer}.log",
    benchmark:
        "<benchmarks>/concat_tokens/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=name_pattern(PLAN.sharded_tokenizers()),
    priority: TEXT_PRIORITY
    resources:
        mem_mb=inputs.concat.mem_mb,
        runtime=inputs.concat.runtime,
    params:
        code=stage_digest("concat_tokens"),
    shell:
        "lmpipe concat-tokens --tokens {input.tokens:q} --output {output.tokens:q} 2> {log:q}"


rule evaluate_tokenizers:
    input:
        texts=expand("<results>/corpora/{corpus}/{split}.txt", corpus=STUDY.corpora, split=["train", "valid"]),
        vocabs=expand("<results>/tokenizers/{tokenizer}/vocab.json", tokenizer=PLAN.tokenizers),
        merges=expand("<results>/tokenizers/{tokenizer}/merges.txt", tokenizer=PLAN.tokenizers),
        tokens=expand("<results>/tokens/{tokenizer}/train.json", tokenizer=PLAN.tokenizers),
    output:
        evaluation="<results>/tokenizer_experiments.json",
        provenance="<results>/tokenizer_experiments.provenance.json",
    log:
        "<logs>/evaluate_tokenizers.log",
    benchmark:
        "<benchmarks>/evaluate_tokenizers.tsv"
    threads: ALL_CORES
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        results=subpath(output.evaluation, parent=True),
        settings=inputs.settings("evaluation"),
        code=stage_digest("evaluate_tokenizers"),
    shell:
        "lmpipe evaluate-tokenizers {params.results} 2> {log:q}"


rule yardsticks:
    input:
        texts=expand("<results>/corpora/{{corpus}}/{split}.txt", split=["train", "valid"]),
        vocab="<results>/tokenizers/{corpus}/vocab.json",
        tokens=expand("<results>/tokens/{{corpus}}/{split}.{kind}", split=["train", "valid"], kind=["bin", "json"]),
    output:
        yardsticks="<results>/yardsticks/{corpus}.json",
        provenance="<results>/yardsticks/{corpus}.provenance.json",
    log:
        "<logs>/yardsticks/{corpus}.log",
    benchmark:
        "<benchmarks>/yardsticks/{corpus}.tsv"
    resources:
        mem_mb=inputs.yardsticks.mem_mb,
        runtime=inputs.yardsticks.runtime,
    params:
        results=subpath(output.yardsticks, ancestor=2),
        settings=inputs.settings("yardstick", "corpus"),
        code=stage_digest("yardsticks"),
    shell:
        "lmpipe yardsticks {params.results} {wildcards.corpus} 2> {log:q}"
