"""Wrong studies: each is one line that names the file, the key path, what was found and the remedy."""

import copy
import datetime
import itertools
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lmpipe.errors import InputError
from lmpipe.io.validation import EXPECTED, first_violation
from lmpipe.planning.plan import load_plan
from lmpipe.planning.text_checks import check_texts
from lmpipe.study.corpora import DocstringsCorpus, FilesCorpus, StoriesCorpus, TextFile
from lmpipe.study.experiments import BestOf, Expect, ExperimentSettings
from lmpipe.study.fields import parse_number
from lmpipe.study.schema import AccountingSettings, SamplesSettings, Study
from lmpipe.study.settings import ModelConfig, TrainingSettings

ROOT = Path(__file__).parents[2]
LAPTOP = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
END = "<|endoftext|>"
MINE = {"source": "files", "files": ["a.txt"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}

# The laptop study with a sweep without named runs.
STUDY = LAPTOP | {
    "accounting": {"models": {}},
    "experiments": LAPTOP["experiments"]
    | {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.007, 0.014, 0.028]}}},
}


def changed(path, value):
    """Return the laptop study with one value put in place, or with the key taken out where the value is `...`."""
    study = copy.deepcopy(STUDY)
    *parents, last = path
    block = study
    for key in parents:
        block = block[key]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return study


def complaint(study):
    with pytest.raises(InputError) as caught:
        check_texts(load_plan(study, "config/mine.yaml"), "config/mine.yaml")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    assert message.startswith("config/mine.yaml: ")
    return message.removeprefix("config/mine.yaml: ")


LR = ("experiments", "learning_rate")
LONG_KEYS = ("max_lr", "rope_theta", "weight_decay", "eps", "max_grad_norm")
GPT2 = LAPTOP["model"] | {"vocab_size": 1024}
NORM_RUNS = ("experiments", "layer_norm_ablation", "runs")


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("experimnets",), {}, "experimnets is not a known key; did you mean experiments?"),
        (("experiments", "generate"), {"corpus": "stories"}, "experiments.generate is the name of a section"),
        (("training", "warmpu"), 1, "training.warmpu is not a known key; did you mean warmup_fraction?"),
        (("model", "dropout"), 0.1, "model.dropout is not a known key; the keys are context_length, d_model"),
        ((*NORM_RUNS, "b"), {"num_hedas": 2}, "runs.b.num_hedas is not a known key; did you mean num_heads?"),
        (("model",), ..., "model is missing"),
        (("model",), None, "model is empty; use a block"),
        (("training", "max_lr"), "fast", "training.max_lr is 'fast'; use a number"),
        (("training", "max_lr"), True, "training.max_lr is true; use a number"),
        (("training", "max_lr"), -1, "training.max_lr is -1; use a number greater than 0"),
        (("training", "max_lr"), float("nan"), "training.max_lr is nan; use a finite number"),
        (("training", "batch_size"), 1.5, "training.batch_size is 1.5; use a whole number"),
        (("training", "betas"), [0.9], "training.betas.1 is missing"),
        (("training", "betas"), [0.9, 0.9, 0.9], "training.betas has 3 values; use at most 2"),
        (("training", "micro_batch_size"), "auot", "training.micro_batch_size is 'auot'; "),
        (("training", "micro_batch_size"), 0, "training.micro_batch_size is 0; use auto or a number of at least 1"),
        (("model", "norm"), "layer", "model.norm is 'layer'; use pre, post or none"),
        (("model", "norm"), "pots", "model.norm is 'pots'; did you mean post?"),
        (("model", "d_ff"), 2**24 + 1, "model.d_ff is 16777217; use a number of at most 16,777,216"),
        (("model", "num_layers"), 1001, "model.num_layers is 1001; use a number of at most 1,000"),
        (("model", "num_heads"), 7, "model.num_heads is 7, which does not divide d_model = 64; use 1, 2, 4 or 8"),
        (("model", "d_model"), 65, "model.num_heads is 4, which does not divide d_model = 65; use an even d_model"),
        (("model", "d_model"), 60, "model.num_heads is 4, .* 15 channels, .*; use 2, 3, 5 or 6, or position_embedding"),
        ((*NORM_RUNS, "b"), {"num_heads": 3}, "layer_norm_ablation.runs.b.num_heads is 3, which does not divide"),
        (("corpora", "stories", "tokenizer", "vocab_size"), 256, "vocab_size is 256; use a number of at least 257"),
        ((*LR, "sweep"), {"vocab_size": [100]}, "sweep.vocab_size is 100; use a number of at least 257"),
        ((*LR, "sweep"), {"max_lr": 3}, "sweep.max_lr is 3; use a list of values"),
        ((*LR, "max_lr"), 0.1, "experiments.learning_rate.max_lr is both set and swept"),
        (
            LR,
            {"corpus": "stories", "sweep": {"max_lr": [0.1, 0.2]}, "runs": {"a": {}, "b": {"max_lr": 0.5}}},
            "experiments.learning_rate.runs.b.max_lr is set, but the experiment sweeps it",
        ),
        (("seeds",), [], "seeds is empty; use at least 1 value"),
        (("seeds",), [1, 1], r"seeds is \[1, 1\], which repeats a value"),
        (("seeds",), [16**5000], "seeds.0 is a number of more than 40 digits; use a number of at most"),
        (("seeds",), "9" * 5000, "seeds is '9999.*; use a list"),
        (("study",), 2024, "study is 2024, which is not text; put it in quotes"),
        (("study",), datetime.date(2024, 1, 1), "study is 2024-01-01, which is not text; put it in quotes"),
        (("study",), [16**5000], r"study is \[a number of more than 40 digits\]; use a name"),
        (("study",), "../elsewhere", "study is '../elsewhere', which is not a plain name"),
        # Names of files: results/README.md, accounting/x.provenance.json, temporary files.
        (("study",), "README.md", "study is 'README.md', which is not a plain name"),
        (("accounting", "models", "x.provenance"), GPT2, "models.x.provenance is .* not a plain name"),
        (("accounting", "models", "x.json.tmp-y"), GPT2, "models.x.json.tmp-y is .* not a plain name"),
        (("study",), "a" * 101, "study has 101 characters; use at most 100"),
        (("study",), "a\n", r"study is 'a\\n', which is not a plain name"),
        (("corpora", "0" * 20), MINE, "corpora.0* is '0*', which repeats a part 20 times"),
        (("corpora", "a/b"), MINE, "corpora.a/b is 'a/b', which is not a plain name"),
        (("corpora", "\x1b[31m"), MINE, r"^corpora.'\\x1b\[31m' is .* not a plain name"),
        (("experiments", "$(rm -r x)"), {}, "is not a plain name"),
        ((*NORM_RUNS, ".."), {}, "is not a plain name"),
        (("corpora", "mine"), MINE | {"files": ["no.txt"]}, "corpora.mine: no.txt is no file or folder"),
        (("corpora", "mine"), MINE | {"files": ["" + "x" * 300]}, "mine: xxx.* is no file or folder"),
        (("corpora", "mine"), MINE | {"files": ["sub"]}, "mine: sub has no file that ends in"),
        (("corpora", "mine"), MINE | {"files": ["*.rst"]}, "mine: .* matches no file"),
        (("corpora", "mine"), MINE | {"files": ["empty.txt"]}, "mine: empty.txt is empty"),
        (("corpora", "mine"), MINE | {"files": ["ftp://x/a"]}, "files.0 is 'ftp://x/a', which is neither"),
        (("corpora", "mine"), MINE | {"files": ["https://h/x\n"]}, r"files.0 is 'https://h/x\\n', which is neither"),
        (("corpora", "mine"), MINE | {"files": ["https://[::1/x"]}, "files.0 is .*, which is neither"),
        (("corpora", "mine"), MINE | {"files": ["https://h/é"]}, "files.0 is .*, which is neither .*; .* as %20"),
        *(
            (("corpora", "mine"), MINE | {"files": [f"{path}"]}, "files.0 is .*, a path that .*; rename the file")
            for path in ("-x.txt", "{x}.txt", "<x>.txt", "a\0b", "\ud800", "")
        ),
        *(
            (("corpora", "mine"), MINE | {"tokenizer": {"vocab_size": 300} | tokenizer}, problem)
            for tokenizer, problem in (
                ({"special_tokens": ["a", "a"]}, "special_tokens .*repeats a value"),
                ({"special_tokens": [f"x{END}"]}, "special_tokens.0 is .* overlaps"),
                ({"special_tokens": ["x <"]}, "special_tokens.0 is .* overlaps"),
                ({"special_tokens": ["a\nb"]}, "special_tokens.0 is .* not printable"),
                ({"special_tokens": ["<a>"], "path": "x"}, "tokenizer has both path and special_tokens"),
                ({"special_tokens": ["<a>"], "vocab_size": 257}, "tokenizer has vocab_size = 257; use at least 258"),
            )
        ),
        (("corpora", "mine"), MINE | {"valid": "a.txt"}, "corpora.mine has both valid and valid_fraction"),
        (("corpora", "mine"), MINE | {"valid_fraction": None}, "corpora.mine has no validation split"),
        (("corpora", "stories", "source"), ..., "stories.source is missing; add it"),
        (("corpora", "docs", "packages"), ["numpi"], "packages.0 is 'numpi', which is not installed; install it"),
        (("corpora", "docs", "packages"), ["json"], "packages.0 is 'json', which has no version"),
        (("samples", "prompts"), ["\ud800"], r"samples.prompts.0 is '\\ud800'; use text in UTF-8"),
        (("label",), "two\nlines", r"label is 'two\\nlines', which is not one printable line; write it in one line"),
        (("label",), " ", "label is blank; write a few words"),
        ((*LR, "label"), "x" * 61, "learning_rate.label is .*; use text of at most 60 characters"),
        ((*LR, "expect"), {"outcome": "better", "because": "x"}, "expect.outcome is 'better'; use higher, lower,"),
        ((*LR, "expect"), {"outcome": "higher"}, "learning_rate.expect.because is missing"),
        ((*NORM_RUNS, "baseline", "expect"), {"outcome": "same", "because": "x"}, "baseline.expect is about the run"),
        (("samples", "prompts"), {"stories": ["a"]}, "samples.prompts has none for docs; add docs: "),
        (("samples", "prompts"), {"stories": []}, "samples.prompts.stories is empty; use at least 1 value"),
    ],
)
def test_wrong_value_is_refused_with_its_key(tmp_path, monkeypatch, path, value, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "sub").mkdir()
    message = complaint(changed(path, value))
    assert re.search(sentence, message), message


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((*LR, "corpus"), "stores", "experiments.learning_rate.corpus"),
        ((*LR, "corpus"), ..., "experiments.learning_rate"),
        (("corpora", "STORIES"), MINE, "corpora"),
        ((*NORM_RUNS, "Baseline"), {}, "experiments.layer_norm_ablation"),
        (("corpora", "stories", "shards"), 5000, "5,000"),
        ((*LR, "sweep"), {key: list(range(1, 999)) for key in ("d_ff", "eps")}, "5,000"),
        (
            ("experiments", "x" * 9 + "y"),
            {
                "corpus": "stories",
                "sweep": {key: [1.2345678901234567e-05] for key in LONG_KEYS},
                "runs": {"abcdefghij" * 4: {}},
            },
            "experiments.xxxxxxxxxy.runs.abcdefghij",
        ),
        ((*LR, "sweep"), {"max_lr": [0.001, "1e-3"]}, "max_lr=0.001"),
        ((*NORM_RUNS, "b"), {"max_lr": {"best_of": "learning_rat"}}, "learning_rat"),
        (LR, {"corpus": "stories", "max_lr": {"best_of": "batch_size_experiment"}}, "experiments.learning_rate"),
        (("experiments", "main_experiment", "target_loss"), 1.45, "target_loss"),
        (("samples", "models", "stories"), "main_experiment/docs", "samples.models.stories"),
        (("samples", "models", "stories"), "main_experiment/storys", "use main_experiment/stories"),
        (("samples", "progress"), {"tales": ["main_experiment/stories"]}, "samples.progress names 'tales'"),
        (("samples", "prompts"), {"stories": ["a"], "docs": ["a"], "tales": ["a"]}, "samples.prompts names 'tales'"),
        (("samples", "progress"), {"stories": ["main_experiment/docs"]}, "samples.progress.stories"),
        *(
            (("accounting", "models"), {name: GPT2}, f"models.{name}")
            for name in ("study", "provenance", "gpt2_xl_2026")
        ),
    ],
)
def test_study_that_cannot_be_planned_is_refused(tmp_path, monkeypatch, path, value, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    assert key in complaint(changed(path, value))


WRONG_VALUES = (None, True, -1e300, 1e300, -1, float("nan"), "", "x", "\ud800", [], [[]], {}, {"x": 1}, 2**70, b"x")
SETTINGS = [TextFile, StoriesCorpus, DocstringsCorpus, FilesCorpus, BestOf, Expect, ExperimentSettings, SamplesSettings]


@pytest.mark.parametrize("model", [*SETTINGS, ModelConfig, TrainingSettings, AccountingSettings, Study])
def test_every_error_of_a_key_has_a_sentence(model):
    violations = []
    for key, value in itertools.product(model.model_fields, WRONG_VALUES):
        try:
            model.model_validate({key: value})
        except ValidationError as error:
            kinds = {item["type"] for item in error.errors()}
            assert kinds <= EXPECTED.keys() | {"missing", "value_error", "too_short", "too_long", "union_tag_not_found"}
            violations.append(str(first_violation(error, {key: value})))
    assert len(violations) > len(model.model_fields)
    assert not re.search("Input should|Field required|Unable to", "".join(violations))


def test_several_errors_are_counted():
    study = changed(("training", "max_lr"), -1)
    study["training"]["batch_size"] = 0
    assert complaint(study).endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 0.001), ("4.096e5", 409600.0), (" 7 ", 7), ("-2", -2), (0.5, 0.5)]
)
def test_number_texts_are_numbers(text, number):
    assert parse_number(text) == number


def test_number_texts_are_accepted_where_yaml_leaves_them_as_texts():
    study = yaml.safe_load(yaml.safe_dump(changed(("training", "max_lr"), "1e-3")))
    assert study["training"]["max_lr"] == "1e-3"
    assert load_plan(study, "x").study.training.max_lr == 0.001


@pytest.mark.parametrize(
    ("block", "shards"),
    [
        ({"files": "texts"}, 1),
        ({"files": "texts", "shards": 4}, 4),
        ({"files": ["texts", "https://h/b", {"path": "https://h/c", "text_bytes": 1000}]}, 1),
        ({"files": [{"path": f"https://h/{name}", "text_bytes": 100_000_000} for name in "abcd"]}, 4),
        ({"files": [{"path": "https://h/a", "text_bytes": 10_000_000_000}, "texts"]}, 140),
        ({"files": [{"path": "https://h/a", "text_bytes": 10_000_000_000}]}, 1),
        ({"source": "stories", "documents": 100, "files": ..., "valid_fraction": ...}, 1),
    ],
)
def test_shards_have_64_mb_and_are_no_more_than_files(tmp_path, monkeypatch, block, shards):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(300):
        (tmp_path / "texts" / f"{number}.txt").write_text("text")
    settings = {key: value for key, value in (MINE | block).items() if value is not ...}
    corpus = load_plan(changed(("corpora", "mine"), settings), "x").study.corpora["mine"]
    assert corpus.num_shards == shards


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_studies_are_valid(path):
    plan = load_plan(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    assert plan.runs
