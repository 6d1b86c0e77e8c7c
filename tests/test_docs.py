"""The examples of docs/library.md and the notebook of docs/ run on a tiny study, in place of the laptop study."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import lmpipe
from tests.support.cli_cases import RUN_ID

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def _beside_a_laptop_study(whole_study, tmp_path, monkeypatch):
    """Work in a folder with results/laptop, which is the tiny study's."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/laptop").symlink_to(whole_study / "results/tiny")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def test_examples_of_library_md_run(capsys):
    names = {}
    for block in re.findall("```python\n(.*?)```", (DOCS / "library.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "library.md", "exec"), names)
    assert isinstance(names["runs"], pd.DataFrame) and isinstance(names["run"], lmpipe.Run)
    assert "seed0" in capsys.readouterr().out, "the error names the nearest run"


def test_example_of_the_readme_runs():
    (block,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(block.replace("main_experiment/stories/seed1", RUN_ID), {})


def test_library_md_lists_every_name():
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "library.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"`([A-Za-z_]+)", " ".join(rows))) == sorted(lmpipe.__all__)


@pytest.mark.filterwarnings("ignore:No artists")  # for a legend: the tiny study sweeps over few rates
@pytest.mark.parametrize("notebook", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_cells_of_notebooks_run(notebook, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    names = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {cell['id']}", "exec"), names)
    assert plt.get_fignums(), "it draws"
