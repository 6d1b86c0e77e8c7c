"""The folder of an export: what is refused, what is replaced, and its model card."""

import sys
from pathlib import Path

import pytest

from lmpipe.data.documents import CorpusInfo, CorpusSplits, SplitInfo
from lmpipe.errors import InputError
from lmpipe.generation import huggingface
from lmpipe.generation.export import LLAMA, export
from lmpipe.generation.inference import read_run
from lmpipe.generation.model_card import model_card
from lmpipe.training.run_documents import RunConfig, RunSummary
from tests.support.variants import WORDS

NAMES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.mark.parametrize(
    ("key", "word"), [(key, word) for key, words in WORDS.items() for word in words if word != LLAMA[key][0]]
)
def test_words_that_llama_cannot_express_are_refused_before_anything_is_written(
    exported, tmp_path, monkeypatch, key, word
):
    config, weights, tokenizer = read_run(exported / "run")
    refused = config.model_copy(update={key: word}), weights, tokenizer
    monkeypatch.setattr("lmpipe.generation.export.read_run", lambda folder: refused)
    with pytest.raises(InputError, match=f"run: model.{key} is {word}"):
        export(exported / "run", tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_an_earlier_export_are_replaced_and_nothing_else(exported, tmp_path):
    target = tmp_path / "exported"
    target.mkdir()
    export(exported / "run", target)
    assert {path.name for path in target.iterdir()} == NAMES
    (target / "config.json").write_text("{}")
    export(exported / "run", target)
    for name in NAMES:
        assert (target / name).read_bytes() == (exported / "huggingface" / name).read_bytes()
    (target / "notes.txt").write_text("mine")
    (tmp_path / "file").touch()
    for other in (target, exported / "run", tmp_path / "file"):
        with pytest.raises(InputError, match=str(other)):
            export(exported / "run", other)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_failed_export_leaves_no_file_and_is_repeated(exported, tmp_path, name, monkeypatch):
    with monkeypatch.context() as patch:
        original = huggingface.llama_files
        patch.setattr(huggingface, "llama_files", lambda *args: original(*args) | {name: "not bytes"})
        with pytest.raises(TypeError):
            export(exported / "run", tmp_path / "exported")
    assert [path for path in (tmp_path / "exported").iterdir() if path.name in NAMES] == []
    export(exported / "run", tmp_path / "exported")


def test_card_is_read_by_the_hub_and_has_the_final_losses(exported):
    from huggingface_hub import ModelCard

    summary = RunSummary.read(exported / "run/summary.json")
    for file_format, library in (("huggingface", "transformers"), ("gguf", None)):
        data = ModelCard.load(exported / file_format / "README.md").data
        assert data.library_name == library and data.pipeline_tag == "text-generation"
        results = {result.metric_type: result.metric_value for result in data.eval_results}
        assert results == {
            "loss": summary.validation_loss,
            "perplexity": summary.perplexity,
            "bits_per_byte": summary.bits_per_byte,
        }


@pytest.mark.parametrize("file_format", ["huggingface", "gguf"])
def test_code_of_the_card_loads_the_folder_and_generates(exported, file_format, monkeypatch, capsys):
    monkeypatch.chdir(exported / file_format)
    code = Path("README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_card_names_the_corpus_and_its_addresses(exported):
    split = SplitInfo(bytes=1_500_000, documents=4321, sha256="0" * 64)
    corpus = CorpusInfo(
        corpus="tiny",
        source="files",
        settings={"train": [{"url": "https://example.org/ä.txt"}], "valid": {"url": "hf://datasets/a/b@main/c.txt"}},
        splits=CorpusSplits(train=split, valid=split),
        versions={},
    )
    config, summary = RunConfig.read(exported / "run/config.json"), RunSummary.read(exported / "run/summary.json")
    path = exported / "corpora/tiny/corpus.json"
    corpus.write(path)
    try:
        card = model_card(exported / "run", config, summary, "huggingface")
    finally:
        path.unlink()
    assert {"- https://example.org/ä.txt", "- hf://datasets/a/b@main/c.txt"} <= set(card.splitlines())
    assert "4,321 documents" in card and "1.5 MB" in card


def test_card_of_a_diverged_run_has_no_losses_and_its_reason(exported):
    from huggingface_hub import ModelCard

    config, summary = RunConfig.read(exported / "run/config.json"), RunSummary.read(exported / "run/summary.json")
    lost = dict.fromkeys(("validation_loss", "perplexity", "bits_per_byte", "final_train_loss"))
    diverged = summary.model_copy(update={"status": "diverged", "reason": "the loss was not finite", **lost})
    card = ModelCard(model_card(exported / "run", config, diverged, "gguf"))
    assert card.data.eval_results is None and "the loss was not finite" in card.text


def test_missing_package_is_named_before_anything_is_written(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="gguf"):
        export(exported / "run", tmp_path / "exported", "gguf")
    assert list(tmp_path.iterdir()) == []
