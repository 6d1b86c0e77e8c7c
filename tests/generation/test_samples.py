import pytest

from lmpipe.generation.samples import Samples, sample_grid, write_samples
from lmpipe.study.schema import SamplesSettings
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run

SETTINGS = SamplesSettings(
    models={}, prompts=["the sun", "a"], max_new_tokens=40, temperature=[0.0, 0.7], top_p=[0.9, 1.0]
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return the folder of a tiny study with a trained run."""
    study = make_tiny_study(tmp_path_factory.mktemp("samples") / "results")
    train(tiny_run(), study, study / "run")
    return study


def test_the_grid_has_one_greedy_sample_for_each_prompt():
    assert sample_grid(SETTINGS) == [
        (prompt, temperature, top_p)
        for prompt in ("the sun", "a")
        for temperature, top_p in ((0.0, 1.0), (0.7, 0.9), (0.7, 1.0))
    ]


def test_samples_have_metrics_and_are_byte_identical_when_repeated(study):
    texts = [study / f"corpora/tiny/{split}.txt" for split in ("train", "valid")]
    for name in ("first", "second"):
        write_samples(SETTINGS, tiny_run(), study / "run", *texts, study / f"samples/{name}.json")
    assert (study / "samples/first.json").read_bytes() == (study / "samples/second.json").read_bytes()
    result = Samples.read(study / "samples/first.json")
    assert (result.run_status, result.tokenizer, len(result.samples)) == ("finished", "tiny", 6)
    for sample in result.samples:
        assert sample.reached_eos or sample.tokens == 40
        assert 0 <= sample.known_word_share <= 1
        assert sample.words < 3 or 0 < sample.distinct_3 <= 1
    assert max(sample.known_word_share for sample in result.samples) > 0.5
    assert result.held_out.known_word_share == 1
