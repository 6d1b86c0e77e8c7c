"""Text files of a study are checked before its first job, and only once."""

import os
from pathlib import Path

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.planning import text_checks
from lmpipe.planning.plan import load_plan
from lmpipe.planning.snakemake_checks import load_config
from lmpipe.planning.text_checks import check_texts
from tests.support.cli_cases import STUDY, TEXT

UTF16 = "Not the text that it seems to be.\n".encode("utf-16")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "cache"))
    Path(TEXT).write_text("One.\n<|endoftext|>\nTwo.\n", encoding="utf-8")


def check():
    check_texts(load_plan(STUDY, "tiny.yaml"), "tiny.yaml")


@pytest.fixture
def opened(monkeypatch):
    """Return the list of the files that are opened for a check."""
    paths = []
    check_file = text_checks.check_file
    monkeypatch.setattr(text_checks, "check_file", lambda path, *rest: (paths.append(path), check_file(path, *rest)))
    return paths


def test_wrong_text_is_named_with_its_key():
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError, match=r"tiny\.yaml: corpora\.tiny\.files.*: text\.txt is UTF-16"):
        check()


def test_file_is_opened_again_only_if_it_changed(opened):
    check()
    check()
    assert opened == [TEXT]
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError):
        check()
    with pytest.raises(InputError):
        check()
    Path(TEXT).write_text("Three.\n<|endoftext|>\nFour.\n", encoding="utf-8")
    os.utime(TEXT, (1, 1))
    check()
    assert len(opened) == 4


def test_damaged_cache_costs_time_only(opened):
    check()
    for file in Path("cache").rglob("checked-texts"):
        file.write_bytes(b"\0" * 19)
    check()
    check()
    assert opened == [TEXT, TEXT]


def test_estimate_refuses_what_is_no_text(capfd):
    Path(TEXT).write_bytes(UTF16)
    Path("tiny.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["estimate", "tiny.yaml"])
    assert end.value.code == 1 and "UTF-16" in capfd.readouterr().err


def test_snakemake_refuses_what_is_no_text_when_it_starts():
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError, match="UTF-16"):
        load_config(STUDY, ["tiny.yaml"], {})
