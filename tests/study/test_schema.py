"""Wrong studies: each is one line that names the file, the key path, what was found and the remedy."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.study.settings import parse_number

ROOT = Path(__file__).parents[2]
LAPTOP = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
MINE = {"source": "url", "files": ["file:a.txt"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}


def changed(path, value):
    """The laptop study with one value put in place, or with the key taken out where the value is `...`."""
    study = copy.deepcopy(LAPTOP)
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
        load_plan(study, "config/mine.yaml")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    assert message.startswith("config/mine.yaml: ")
    return message.removeprefix("config/mine.yaml: ")


LR = ("experiments", "learning_rate")
LONG_KEYS = ("max_lr", "rope_theta", "weight_decay", "eps", "max_grad_norm")
GPT2 = LAPTOP["accounting"]["models"]["gpt2_small"]
NORM_RUNS = ("experiments", "layer_norm_ablation", "runs")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("experimnets",), {}, "unknown key 'experimnets'; did you mean experiments?"),
        (
            ("experiments", "generate"),
            {"corpus": "stories"},
            "experiments.generate: generate is a section of the report that needs no experiment; choose another name",
        ),
        (
            LR,
            {"corpus": "stories", "sweep": {"max_lr": [0.1, 0.2]}, "runs": {"a": {}, "b": {"max_lr": 0.5}}},
            "experiments.learning_rate: max_lr is swept for all runs, and set in runs.b; keep one of them",
        ),
        (("training", "warmpu"), 1, "training: unknown key 'warmpu'; did you mean warmup_fraction?"),
        (("model", "dropout"), 0.1, "model: unknown key 'dropout'; valid keys: context_length, d_model"),
        ((*NORM_RUNS, "b"), {"num_hedas": 2}, "runs.b: unknown key 'num_hedas'; did you mean num_heads?"),
        (("corpora", "stories", "documants"), 3, "corpora.stories: unknown key 'documants'; did you mean documents?"),
        (
            (*LR, "sweep"),
            {"max_lrr": [1]},
            "experiments.learning_rate: sweep: unknown key 'max_lrr'; did you mean max_lr?",
        ),
        (("training", "max_lr"), "fast", "training.max_lr: expected a number, found the text 'fast'; correct"),
        (("training", "max_lr"), True, "training.max_lr: expected a number, found the boolean True; correct"),
        (("training", "max_lr"), -1, "training.max_lr: expected greater than 0, found -1; correct"),
        (("training", "max_lr"), float("nan"), "training.max_lr: expected"),
        (("training", "batch_size"), 1.5, "training.batch_size: expected"),
        (("training", "betas"), [0.9], "training.betas.1: missing; add it"),
        (("model",), None, "model: expected keys and values, found None; write"),
        (("model",), ..., "model: missing; add it"),
        (("model", "norm"), "layer", "model.norm: expected 'pre', 'post' or 'none', found 'layer'; correct"),
        (("model", "d_model"), 65, "model: d_model 65 cannot be divided among num_heads 4; choose a multiple"),
        (
            ("model", "d_model"),
            60,
            "model: heads of width 15 .* odd, but RoPE .*; choose an even width, or position_embedding: none",
        ),
        ((*NORM_RUNS, "b"), {"num_heads": 3}, "runs.b: d_model 64 cannot be divided among num_heads 3; choose"),
        (
            ("corpora", "stories", "tokenizer", "vocab_size"),
            256,
            r"stories.tokenizer.vocab_size: expected at least 257 \(256 bytes and 1 special token\), found 256; raise",
        ),
        ((*LR, "sweep"), {"vocab_size": [100]}, "sweep: vocab_size: expected at least 257"),
        (
            (*LR, "corpus"),
            "stores",
            "experiments.learning_rate.corpus: no 'stores' in this study; did you mean stories?",
        ),
        ((*LR, "corpus"), ..., "experiments.learning_rate: no corpus; add corpus: stories"),
        (("seeds",), [], "seeds: expected at least 1, found 0; add"),
        (("seeds",), [1, 1], r"seeds: expected each value once, found \[1, 1\]"),
        ((*LR, "seeds"), [], "experiments.learning_rate.seeds: expected at least 1, found 0; add"),
        (("study",), "../elsewhere", "study: expected a name of letters, .* found '../elsewhere'"),
        (("corpora", "a/b"), MINE, "corpora.a/b: expected a name of letters, .* found 'a/b'"),
        ((*NORM_RUNS, ".."), {}, "expected a name of letters, .* found '..'"),
        (("experiments", "$(rm -r x)"), {}, "expected a name of letters"),
        # Names that look like those of files: results/README.md, accounting/x.provenance.json, what is being written.
        (("study",), "README.md", "study: expected a name of letters, .* found 'README.md'; rename it"),
        (("accounting", "models", "x.provenance"), GPT2, "models.x.provenance: expected a name of letters"),
        (("accounting", "models", "x.json.tmp-y"), GPT2, "models.x.json.tmp-y: expected a name of letters"),
        (("study",), "a" * 101, "study: expected a name of letters, .* at most 100"),
        (("corpora", "0" * 20), MINE, "expected a name of letters, .* without 20 repetitions"),
        (("study",), "a\n", r"found 'a\\n'; rename"),
        (("corpora", "\x1b[31m"), MINE, r"^corpora.'\\x1b\[31m': expected a name"),
        (("study",), [16**5000], r"study: expected a name .* found \[a number of more than 40 digits\]; rename"),
        (
            ("seeds",),
            [16**5000],
            "seeds.0: expected less than or equal to 9007199254740992, found a number of more than",
        ),
        (("seeds",), "9" * 5000, "seeds: expected list, found '9999"),
        (("model", "d_ff"), 2**24 + 1, "model.d_ff: expected less than or equal to 16777216, found 16777217; correct"),
        (("model", "num_layers"), 1001, "model.num_layers: expected less than or equal to 1000, found 1001; correct"),
        (
            ("corpora", "STORIES"),
            MINE,
            "corpora: expected names that differ in more than case, found 'stories' and 'STO",
        ),
        (
            (*NORM_RUNS, "Baseline"),
            {},
            "layer_norm_ablation: expected names that differ in more than case, found 'base",
        ),
        (
            ("corpora", "mine"),
            MINE | {"files": ["file:no.txt"]},
            "corpora.mine.files.0: no text at 'no.txt', .*; correct",
        ),
        (("corpora", "mine"), MINE | {"files": ["file:empty.txt"]}, "files.0: the text 'empty.txt' is empty; give it"),
        (
            ("corpora", "mine"),
            MINE | {"files": ["ftp://x/a"]},
            "files.0: expected file:PATH or https://HOST/PATH, found",
        ),
        (
            ("corpora", "mine"),
            MINE | {"files": ["https://h/x\n"]},
            r"files.0: expected .* found 'https://h/x\\n'; correct",
        ),
        (("corpora", "mine"), MINE | {"files": ["https://[::1/x"]}, "files.0: expected file:PATH or https://HOST/PATH"),
        (
            ("corpora", "mine"),
            MINE | {"files": ["https://h/é"]},
            "files.0: expected .*; correct .* accents as %20 and the",
        ),
        (
            ("corpora", "mine"),
            MINE | {"files": ["file:-x.txt"]},
            "files.0: expected a path .* that does not start with '-'",
        ),
        (("corpora", "mine"), MINE | {"files": ["file:{x}.txt"]}, "files.0: expected a path .*; rename the file, or"),
        (("corpora", "mine"), MINE | {"files": ["file:<x>.txt"]}, "files.0: expected a path .*; rename the file, or"),
        (("corpora", "mine"), MINE | {"files": ["file:a\0b"]}, "files.0: expected a path .*; rename the file, or"),
        (
            ("corpora", "mine"),
            MINE | {"files": ["file:\ud800"]},
            r"files.0: expected a path in UTF-8 .*, found .\\ud800.; rename",
        ),
        (("corpora", "mine"), MINE | {"files": ["file:" + "x" * 300]}, "files.0: no text at 'xxx.*; correct"),
        (("corpora", "mine"), MINE | {"files": ["file:."]}, "files.0: no text at '.', .*; correct"),
        (("samples", "prompts"), ["\ud800"], r"samples.prompts.0: expected string, .* found .\\ud800"),
        (("corpora", "mine"), MINE | {"files": []}, "corpora.mine.files: expected at least 1, found 0; add"),
        (
            ("corpora", "mine"),
            MINE | {"valid": "file:a.txt"},
            "corpora.mine: expected either .* found both; give either valid",
        ),
        (
            ("corpora", "stories", "source"),
            "wiki",
            "expected source: stories, docstrings or url, found 'wiki'; set source",
        ),
        (
            ("corpora", "docs", "packages"),
            ["numpi"],
            "corpora.docs.packages.0: package 'numpi' is not installed; install it with pip",
        ),
        (("corpora", "docs", "packages"), ["json"], "packages.0: package 'json' has no version of its own; name"),
        (("corpora", "docs", "packages"), ["os.path"], "packages.0: package 'os.path' is not installed; install"),
        (
            ("corpora", "stories", "shards"),
            5000,
            r"at most 5,000 training runs and shards together, found \d+ and 5001;",
        ),
        (
            (*LR, "sweep"),
            {key: list(range(1, 999)) for key in ("d_ff", "eps")},
            r"found \d{6,} and 2; make several studies",
        ),
        (
            ("experiments", "x" * 9 + "y"),
            {
                "corpus": "stories",
                "sweep": {key: [1.2345678901234567e-05] for key in LONG_KEYS},
                "runs": {"abcdefghij" * 4: {}},
            },
            "expected a run's name of at most 200 characters, found 204 in .*; shorten names, or sweep fewer keys",
        ),
        (
            ("samples", "prompts"),
            [f"{number} {'x' * 1000}" for number in range(120)],
            "the study: expected at most 120,000 bytes of settings, found 12[0-9],[0-9]{3}; make several studies of it",
        ),
        ((*LR, "sweep"), {"max_lr": 3}, r"sweep.max_lr: expected a list of values, such as \[1, 2\], found 3"),
        ((*LR, "sweep"), {"max_lr": [0.001, "1e-3"]}, "two runs would be named 'max_lr=0.001'; let them differ"),
        ((*LR, "max_lr"), 0.1, "experiments.learning_rate: max_lr is both set and swept; keep one"),
        (
            (*NORM_RUNS, "b"),
            {"max_lr": {"best_of": "learning_rat"}},
            "best_of: no 'learning_rat' .* mean learning_rate?",
        ),
        (
            ("experiments", "learning_rate"),
            {"corpus": "stories", "max_lr": {"best_of": "batch_size_experiment"}},
            "best_of comes back to learning_rate itself; take the rate elsewhere",
        ),
        ((*LR, "target_loss"), 0, "experiments.learning_rate.target_loss: expected greater than 0, found 0"),
        (
            ("experiments", "main_experiment", "target_loss"),
            1.45,
            "experiments.main_experiment.target_loss: .* found stories, docs, whose losses do not compare; set it in",
        ),
        ((*NORM_RUNS, "b"), {"target_loss": 1.45}, "runs.b: unknown key 'target_loss'"),
        (("samples", "models", "stories"), "main_experiment/docs", "expected a run on corpus 'stories', found"),
        (("samples", "models", "stories"), "main_experiment/storys", "did you mean main_experiment/stories"),
        (("accounting", "models", "study"), LAPTOP["accounting"]["models"]["gpt2_xl"], "choose another"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(tmp_path, monkeypatch, path, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    found = complaint(changed(path, value))
    assert re.search(message, found), found


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
        ({"files": ["file:a.txt", "https://h/b", {"url": "https://h/c"}]}, 3),
        ({"files": ["file:a.txt", "https://h/b"], "shards": 1}, 1),
        ({"files": ["file:a.txt"], "shards": 4}, 4),
        ({"files": ["file:a.txt"]}, 1),
        ({"files": "file:a.txt"}, 1),
        ({"source": "stories", "documents": 100, "files": ..., "valid_fraction": ...}, 1),
    ],
)
def test_a_corpus_of_several_files_has_as_many_shards(tmp_path, monkeypatch, block, shards):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    given = {key: value for key, value in (MINE | block).items() if value is not ...}
    corpus = load_plan(changed(("corpora", "mine"), given), "x").study.corpora["mine"]
    assert corpus.shards == shards


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_studies_are_valid(path):
    plan = load_plan(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    assert plan.runs
