import pytest

from lmpipe.data.sources.stories import stories
from lmpipe.model.accounting import count_flops
from lmpipe.planning import cost_model
from lmpipe.planning.cost_model import CPU_CORE, H100, OPEN_WEB_TEXT, TINY_STORIES, RunCost, run_cost, split_bytes
from lmpipe.planning.resource_requests import text_requests, train_request
from lmpipe.study.settings import ModelConfig
from tests.planning.test_plan import MINE, plan_with

CS336 = {"context_length": 256, "d_model": 512, "d_ff": 1344, "num_layers": 4, "num_heads": 16}
LAPTOP = {"context_length": 128, "d_model": 64, "d_ff": 192, "num_layers": 4, "num_heads": 4}
WIDE = {"context_length": 256, "d_model": 256, "d_ff": 688, "num_layers": 4, "num_heads": 8}
SMOKE = {"context_length": 64, "d_model": 32, "d_ff": 96, "num_layers": 2, "num_heads": 2}
# Vocabulary, batch size, precision, seconds of a training step and peak memory (MB) of its process without validation,
# measured on one core of a 2-core Intel Xeon (AVX-512, AMX), the other one training the same.
MEASURED = [
    (LAPTOP, 1_024, 1, "float32", 0.005275, 320),
    (LAPTOP, 1_024, 8, "float32", 0.02226, 340),
    (LAPTOP, 1_024, 32, "float32", 0.0929, 401),
    (LAPTOP, 2_048, 8, "float32", 0.02768, 346),
    (SMOKE, 512, 8, "float32", 0.003417, 309),
    (WIDE, 2_048, 8, "float32", 0.3684, 526),
    (WIDE, 2_048, 8, "bfloat16", 0.1658, 492),
    (CS336, 10_000, 2, "float32", 0.3972, 755),
    (CS336, 10_000, 8, "float32", 1.449, 920),
    (CS336, 32_000, 8, "float32", 2.457, 1409),
    (CS336, 10_000, 2, "bfloat16", 0.3988, 754),
    (CS336, 10_000, 8, "bfloat16", 1.197, 873),
]


def steps(model, vocab_size, batch_size, count, precision="float32"):
    return RunCost(ModelConfig(vocab_size=vocab_size, **model), precision, batch_size, count, 0)


@pytest.mark.parametrize(("model", "vocab_size", "batch_size", "precision", "seconds", "megabytes"), MEASURED)
def test_estimate_is_near_the_measurement(model, vocab_size, batch_size, precision, seconds, megabytes):
    cost = steps(model, vocab_size, batch_size, 1000, precision)
    # How fast bfloat16 is depends on the shapes more than the formula knows.
    tolerance = {"float32": 0.27, "bfloat16": 0.4}[precision]
    assert (cost.seconds(CPU_CORE) - cost_model.JOBS["start"]) / 1000 == pytest.approx(seconds, rel=tolerance)
    assert (cost.memory_bytes - cost.model.validation_bytes) / 1e6 == pytest.approx(megabytes, rel=0.1)


def test_assumed_gpu_takes_minutes_for_the_handouts_run():
    """3 to 6 ms for a step of 32 sequences, as products at 55 % of the peak and the memory traffic allow."""
    cost = steps(CS336, 10_000, 32, 40_000, "bfloat16")
    assert cost.batch_size * cost.steps * 256 == 327_680_000
    assert 2 * 60 < cost.seconds(H100) < 4 * 60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_needs_more_memory_for_a_sequence(precision):
    """Torch's operations keep a third more than the kernels of a CPU."""
    one, many = (steps(CS336, 10_000, size, 1, precision) for size in (1, 101))
    growth = (many.gpu_memory_bytes - one.gpu_memory_bytes) / (many.memory_bytes - one.memory_bytes)
    assert 1.05 < growth < 1.35


def test_flops_of_a_run_equal_the_accounting():
    model = ModelConfig(vocab_size=1024, **LAPTOP)
    plan = plan_with({"x": {"corpus": "stories", "total_tokens": 8 * 128 * 50, "batch_size": 8}})
    cost = run_cost(plan, plan.runs[0])
    assert cost.steps == 50
    assert cost.training_flops == 50 * 8 * count_flops(model).training
    validation = TINY_STORIES.estimate_tokens(split_bytes(plan.study.corpora["stories"])[1], 1024)
    curve = plan.study.training.num_evaluations * min(plan.study.training.eval_tokens, validation)
    assert cost.evaluation_flops == pytest.approx((validation + curve) / 128 * count_flops(model).forward)


def test_run_with_an_unresolved_rate_has_a_cost():
    tuned = {"corpus": "stories", "max_lr": {"best_of": "sweep", "factor": 2}}
    plan = plan_with({"sweep": {"corpus": "stories"}, "tuned": tuned})
    assert run_cost(plan, plan.runs[0]) == run_cost(plan, plan.runs[1])


def test_known_corpora_have_their_known_statistics():
    assert TINY_STORIES.estimate_tokens(2_227_753_162, 10_000) == pytest.approx(541.2e6, rel=1e-3)
    assert OPEN_WEB_TEXT.estimate_tokens(11_920_511_059, 32_000) == pytest.approx(2727e6, rel=1e-3)
    assert TINY_STORIES.estimate_pretokens(8_578_108) == pytest.approx(10_176, rel=0.05)
    assert OPEN_WEB_TEXT.estimate_pretokens(4_121_796) == pytest.approx(51_008, rel=0.05)
    assert OPEN_WEB_TEXT.estimate_pretokens(99_921_639) == pytest.approx(375_931, rel=0.1), "another web text"


def test_mean_size_of_a_story():
    sizes = [len(story.encode()) + len("\n<|endoftext|>\n") for story in stories(500, 0)]
    assert sum(sizes) / len(sizes) == pytest.approx(cost_model.TEXTS["story_bytes"], rel=0.05)


def test_local_texts_are_measured_and_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    (tmp_path / "b.txt").write_bytes(b"x" * 300)
    corpora = {"cut": MINE, "apart": {**MINE, "valid": "b.txt", "valid_fraction": None}}
    corpora["declared"] = {**MINE, "files": [{"path": "https://example.org/a.txt", "bytes": 500}]}
    corpora["unknown"] = {**MINE, "files": [{"path": "https://example.org/a.txt.gz", "bytes": 500}]}
    sizes = {
        name: split_bytes(corpus)
        for name, corpus in plan_with({"x": {"corpus": "cut"}}, corpora=corpora).study.corpora.items()
    }
    assert sizes == {"cut": (900, 100), "apart": (1000, 300), "declared": (450, 50), "unknown": (0, 0)}


def test_shard_needs_less_memory_and_time_than_the_whole():
    text = {"path": "https://example.org/big.txt", "bytes": 10_000_000_000_000}
    big = {**MINE, "files": [text], "stands_for": "OpenWebText"}
    whole, eighth = (
        plan_with({"x": {"corpus": "big"}}, corpora={"big": big | {"shards": shards}}).study.corpora["big"]
        for shards in (1, 8)
    )
    small, large = text_requests(eighth), text_requests(whole)
    assert small["count_pretokens"].mem_mb < large["count_pretokens"].mem_mb
    assert all(small[rule].runtime < large[rule].runtime for rule in ("count_pretokens", "encode_shard"))
    assert all(small[rule] == large[rule] for rule in ("train_bpe", "encode_corpus", "concat_tokens"))
    assert cost_model.shard_file_bytes(eighth, 300) > cost_model.shard_file_bytes(whole, 300) == 0


def test_requests_grow_with_the_run_and_never_exceed_a_week():
    experiment = {
        "corpus": "stories",
        "runs": {"small": {}, "large": {**CS336, "batch_size": 64, "total_tokens": 10**9}},
    }
    plan = plan_with({"x": experiment})
    small, large = (train_request(plan, run) for run in plan.runs)
    assert (small.mem_mb, small.runtime) == (4000, 60)
    assert large.mem_mb > run_cost(plan, plan.runs[1]).memory_bytes / 1e6
    assert large.runtime == 7 * 24 * 60
