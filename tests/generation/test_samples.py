import pytest

from lmpipe.generation.samples import Samples, sample_grid, write_samples
from lmpipe.study.schema import SamplesSettings
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run

SETTINGS = SamplesSettings(
    models={}, seeds=[0, 1], prompts=["the sun", "a"], max_new_tokens=40, temperature=[0.0, 0.7], top_p=[0.9, 1.0]
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return the folder of a tiny study with a trained run."""
    study = make_tiny_study(tmp_path_factory.mktemp("samples") / "results")
    train(tiny_run(), study, study / "run")
    return study


def test_the_grid_has_one_greedy_sample_for_each_prompt():
    assert sample_grid(SETTINGS, "tiny", 0) == [
        (prompt, temperature, top_p, 0)
        for prompt in ("the sun", "a")
        for temperature, top_p in ((0.0, 1.0), (0.7, 0.9), (0.7, 1.0))
    ]


def test_later_seeds_repeat_no_greedy_sample():
    assert {request.temperature for request in sample_grid(SETTINGS, "tiny", 1)} == {0.7}


def test_prompts_may_differ_by_corpus():
    settings = SETTINGS.model_copy(update={"prompts": {"tiny": ["a"], "other": ["b"]}})
    assert {request.prompt for request in sample_grid(settings, "other", 0)} == {"b"}


def test_samples_have_metrics_and_are_byte_identical_when_repeated(study):
    texts = [study / f"corpora/tiny/{split}.txt" for split in ("train", "valid")]
    progress = [(tiny_run(), study / "run")]
    for name in ("first", "second"):
        write_samples(SETTINGS, tiny_run(), study / "run", progress, *texts, study / f"samples/{name}.json")
    assert (study / "samples/first.json").read_bytes() == (study / "samples/second.json").read_bytes()
    result = Samples.read(study / "samples/first.json")
    assert (result.run_status, result.tokenizer, len(result.samples)) == ("finished", "tiny", 10)
    for sample in result.samples:
        assert sample.reached_eos or sample.tokens == 40
        assert 0 <= sample.known_word_share <= 1
        assert sample.words < 3 or 0 < sample.distinct_3 <= 1
    assert max(sample.known_word_share for sample in result.samples) > 0.5
    assert result.held_out.known_word_share == 1
    assert [sample.seed for sample in result.samples] == [0] * 6 + [1] * 4
    greedy = [sample for sample in result.samples if sample.temperature == 0]
    assert len({(sample.prompt, sample.text) for sample in greedy}) == 2
    (text,) = result.progress
    assert (text.run, text.prompt, text.loss) == ("experiment/baseline", "the sun", result.validation_loss)
    assert 0 < len(text.text.split()) <= 25 and text.train_tokens == 16 * 4 * 60
    words = text.text.lower().replace(".", "").split()
    known = set((study / "corpora/tiny/train.txt").read_text().lower().replace(".", "").split())
    assert set(text.unknown_words) >= {word for word in words if word.isalpha()} - known
