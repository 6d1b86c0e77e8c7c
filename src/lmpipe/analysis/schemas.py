"""The shapes of what the problems and the report read: results on tokenizers and models, samples, findings."""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lmpipe.study.documents import Amount, Count, Loss, Positive, Share, Whole, keys, written_from
from lmpipe.study.settings import ModelConfig


def row_for_each_pair(comparison: dict[str, Any]) -> dict[str, Any]:
    """A comparison with one row for each tokenizer on each corpus."""
    found = [(row["tokenizer"], row["corpus"]) for row in comparison["compression"]]
    if sorted(found) != sorted(product(comparison["tokenizers"], comparison["corpora"])):
        raise ValueError("compression: expected a row for each tokenizer on each corpus, found others")
    return comparison


def no_shares_of_nothing(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of text whose metrics fit its number of words."""
    if not sample["words"] and any(sample[name] is not None for name in SHARES_OF_WORDS):
        raise ValueError("words: expected some, as there are shares of them, found none")
    return sample


COST = keys(wall_seconds=Amount, peak_memory_bytes=Whole)
TOKENIZER_TRAINING = keys(
    vocab_size=Count,
    merges=Whole,
    special_tokens=list[str],
    stages=keys(count=COST, merge=COST, save=COST),
    wall_seconds=Positive,
    peak_memory_bytes=Whole,
    bytes=Whole,
    pretokens=Whole,
    unique_pretokens=Whole,
)
SESSION = list[keys(code=str, output=str)]
TWO_WORDS = Annotated[str, Field(pattern=r"^\S+ \S+$")]
ENCODED = keys(bytes=Whole, bytes_per_character=Amount, zero_share=Share)
UNICODE = keys(
    python=str,
    null=keys(
        session=SESSION,
        representation=str,
        printed=str,
        joined_representation=str,
        joined_printed=str,
        joined_length=Whole,
        category=str,
        unicode_name_is_null=bool,
    ),
    encodings=keys(
        code=str,
        samples=Annotated[
            list[
                keys(
                    script=str,
                    text=str,
                    characters=Count,
                    encodings=keys(**{"UTF-8": ENCODED, "UTF-16": ENCODED, "UTF-32": ENCODED}),
                )
            ],
            Field(min_length=1),
        ],
    ),
    bytewise_decoder=keys(
        session=SESSION,
        words_decoded=Whole,
        input=str,
        input_bytes=str,
        exception=str,
        characters=Count,
        characters_failing=Whole,
        first_failing_code_point=Whole,
    ),
    two_byte_sequences=keys(
        session=SESSION,
        example=TWO_WORDS,
        example_bits=TWO_WORDS,
        example_reason=str,
        sequences=Count,
        valid=Whole,
        invalid=Whole,
        reasons=list[keys(reason=str, sequences=Whole, example=str)],
    ),
)
ADAMW = keys(
    parameters=Count,
    bytes_per_sequence=Positive,
    fixed_bytes=Positive,
    largest_batch_size=Whole,
    optimizer_flops=Positive,
    flops_6nd_per_step=Positive,
    days=Positive,
    derivation=list[keys(symbol=str, meaning=str, formula=str, value=float, unit=str)],
)
UPDATE = list[keys(code=str, flops=Whole)]
ACCOUNT = keys(
    name=str,
    config=written_from(ModelConfig),
    parameters=keys(
        token_embedding=Whole, attention=Whole, feed_forward=Whole, norms=Whole, lm_head=Whole, total=Count
    ),
    parameter_bytes=Count,
    matmuls=list[
        keys(
            name=str,
            shape=Annotated[list[Count], Field(min_length=3, max_length=3)],
            repeats=Count,
            flops=Count,
        )
    ],
    flops=keys(forward=Positive, training=Positive, flops_6nd=Positive, attention_crossover_context=Positive),
    shares=keys(attention_projections=Share, attention_scores=Share, feed_forward=Share, lm_head=Share),
    torch_counts=keys(parameters=Count, forward_flops=Count),
    adamw=keys(updates=keys(handout=UPDATE, torch=UPDATE), handout=ADAMW, swiglu=ADAMW),
)
MEMORY_LINE = keys(fixed_bytes=Count, bytes_per_sequence=Count, largest_batch_size=Whole)
# Every doubling of the batch size from 1, in this order; memory in bytes beyond what a process with its code holds.
BATCH_SIZES = keys(
    model=written_from(ModelConfig),
    precision=str,
    device=str,
    threads=Count,
    memory_limit_bytes=Whole,
    predicted=MEMORY_LINE,
    handout=MEMORY_LINE,
    sizes=list[
        keys(
            batch_size=Count,
            steps=Count,
            step_seconds=Positive,
            tokens_per_second=Positive,
            memory_bytes=Whole,
        )
    ],
    largest_batch_size=Whole,
    estimated_largest_batch_size=Whole,
    stop_reason=Literal["memory", "run", "time"],
)
# One training step of the study's own model, predicted and measured.
STEP_BYTES = {"parameters": Count, "parameter_bytes": Count, "gradient_bytes": Count, "moment_bytes": Count}
STEP_FLOPS = {"forward_flops": Count, "step_flops": Count}
MEASUREMENTS = keys(
    model=written_from(ModelConfig),
    batch_size=Count,
    precision=str,
    device=str,
    threads=Count,
    predicted=keys(
        **STEP_BYTES,
        **STEP_FLOPS,
        activations=keys(
            activations=list[
                keys(
                    name=str,
                    part=str,
                    handout_formula=str,
                    saved_formula=str,
                    reason=str,
                    handout_bytes=Whole,
                    saved_bytes=Whole,
                )
            ],
            handout_bytes=Count,
            saved_bytes=Count,
        ),
    ),
    measured=keys(
        **STEP_BYTES,
        **STEP_FLOPS,
        process_bytes=Whole,
        saved_bytes=Count,
        saved_bytes_by_part=dict[str, Whole],
        matmul_flops_per_second=Positive,
    ),
)
# As `lmpipe.tokenizer.evaluation.token_kind` names them.
KIND = Literal[
    "word",
    "joined words",
    "number",
    "punctuation",
    "repetition",
    "white space",
    "mixed",
    "mojibake",
    "not valid UTF-8",
]
LONG_TOKEN = keys(text=str, bytes=Count, id=Whole, kind=KIND, occurrences=Whole, excerpt=str)
COMPARED_ALL = keys(
    seed=int,
    pile_bytes=Count,
    corpora=dict[str, keys(documents=Count, bytes=Count)],
    compression=Annotated[
        list[
            keys(
                tokenizer=str,
                corpus=str,
                in_domain=bool,
                sample_tokens=Count,
                sample_bytes_per_token=Positive,
                valid_tokens=Count,
                valid_bytes_per_token=Positive,
                round_trip=bool,
            )
        ],
        Field(min_length=1),
    ],
    tokenizers=Annotated[
        dict[
            str,
            keys(
                corpus=str,
                vocab_size=Count,
                throughput=keys(
                    bytes=Count,
                    seconds=Annotated[list[Positive], Field(min_length=1)],
                    bytes_per_second=Positive,
                ),
                pile_seconds=Positive,
                uint16=keys(largest_id=Whole, largest_uint16=Whole, fits_uint16=bool, train_text_checked=bool),
                merges=Whole,
                mean_length=Loss,
                lengths=dict[Annotated[str, Field(pattern="^[0-9]+$")], Whole],
                kinds=dict[str, Whole],
                words_after_space=Whole,
                longest_tokens=list[LONG_TOKEN],
            ),
        ],
        Field(min_length=1),
    ],
    overlaps=list[keys(first=str, second=str, shared=Whole, only_first=list[str], only_second=list[str])],
)
COMPARISON = Annotated[COMPARED_ALL, AfterValidator(row_for_each_pair)]
SHARES_OF_WORDS = ("known_word_share", "distinct_1", "distinct_2", "distinct_3", "repeated_4gram_share")
FLUENCY = {"words": Whole, **dict.fromkeys(SHARES_OF_WORDS, Share | None)}
SAMPLE = keys(
    prompt=str,
    temperature=Amount,
    top_p=Share,
    text=str,
    tokens=Whole,
    reached_eos=bool,
    context_truncations=list[Whole],
    **FLUENCY,
)
SAMPLES = keys(
    corpus=str,
    run=str,
    run_status=str,
    max_new_tokens=Count,
    context_length=Count,
    samples=Annotated[list[Annotated[SAMPLE, AfterValidator(no_shares_of_nothing)]], Field(min_length=1)],
    held_out=keys(documents=Whole, **FLUENCY),
)
