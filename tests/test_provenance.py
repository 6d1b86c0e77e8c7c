import shutil
import subprocess
import sys

import pytest

from lmpipe import provenance
from lmpipe.provenance import COMPUTED_BY, code_digest, code_of, commit, environment, peak_memory_bytes


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package's sources that a test may edit."""
    copy = tmp_path / "lmpipe"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def digest(*names):
    for cached in (provenance.read_source, provenance.data_digest):
        cached.cache_clear()
    return code_digest(*names)


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_closure_names_what_computes_and_leaves_the_rest_out():
    modules = set(code_digest("train"))
    assert {"train", "model", "optim", "tokens", "settings", "torch", "numpy"} <= modules
    assert not {"cli", "files", "progress", "provenance", "study", "plan", "report", "plots"} & modules


def test_the_kernels_and_their_compiler_count_for_tokenizers():
    compiled = {"kernels.simd", "kernels.scan", "kernels.count", "kernels.build", "numba"}
    assert compiled | {"kernels.merge"} <= set(code_digest("bpe"))
    assert compiled <= set(code_digest("counting"))
    assert compiled | {"kernels.encode"} <= set(code_digest("encoding"))


def test_the_kernels_of_tokenizers_and_of_training_do_not_count_for_each_other():
    tokenizing = {"kernels.scan", "kernels.count", "kernels.merge", "kernels.encode"}
    training = {"kernels.lanes", "kernels.layers", "kernels.team"}
    assert training <= set(code_digest("train"))
    assert not tokenizing & set(code_digest("train"))
    assert not training & set(code_digest("bpe", "counting", "encoding"))
    assert {"kernels.forward", "kernels.lanes", "numba"} <= set(code_digest("generate"))


def test_all_problems_count_for_the_findings():
    assert {"problems.unicode1", "problems.generate", "problems.adamw_accounting"} <= set(code_digest("problems"))


def test_comments_and_docstrings_change_nothing(package):
    before = digest("train")
    edit(package / "model.py", '"""', '"""Another word. ')
    (package / "model.py").write_text((package / "model.py").read_text(encoding="utf-8") + "\n\n# a comment\n")
    assert digest("train") == before


def test_a_formula_changes_the_modules_that_use_it_and_no_other(package):
    before, tokenizers = digest("train"), digest("bpe")
    (package / "model.py").write_text((package / "model.py").read_text(encoding="utf-8") + "\n\nNEW = 1\n")
    after = digest("train")
    assert {name for name in after if after[name] != before[name]} == {"model"}
    assert digest("bpe") == tokenizers


def test_what_only_reports_reruns_nothing(package):
    before = digest("train")
    for name in ("cli", "files", "progress", "provenance", "records", "verify"):
        path = package / f"{name}.py"
        path.write_text(path.read_text(encoding="utf-8") + "\n\nNEW = 1\n", encoding="utf-8")
    assert digest("train") == before


def test_templates_count_by_content(package):
    before = digest("templates")
    path = next(path for path in (package / "templates").iterdir() if path.is_file())
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert digest("templates") != before


@pytest.mark.parametrize("verb", COMPUTED_BY)
def test_the_code_of_a_verb_is_known_and_leaves_out_what_only_records(verb):
    digests = code_of(verb)
    assert digests
    assert not {"cli", "files", "provenance", "records", "verify"} & set(digests)


def test_an_unknown_module_is_an_error():
    with pytest.raises(ValueError, match="no module 'modle'"):
        code_digest("modle")


def test_peak_memory_is_this_process_and_not_its_parent():
    ballast = bytearray(400_000_000)
    code = "from lmpipe.provenance import peak_memory_bytes; print(peak_memory_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak_memory_bytes() > len(ballast)
    assert child < 200_000_000


def test_a_package_inside_another_projects_checkout_has_no_commit(package):
    git = ["git", "-C", str(package.parent), "-c", "user.name=n", "-c", "user.email=e"]
    (package.parent / "another.txt").touch()
    for arguments in (["init", "--quiet"], ["add", "another.txt"], ["commit", "--quiet", "--message", "another"]):
        subprocess.run([*git, *arguments], check=True)
    assert commit() == {"commit": None, "changed": None}
    subprocess.run([*git, "add", "."], check=True)
    assert commit()["changed"] is True
    subprocess.run([*git, "commit", "--quiet", "--message", "the package"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit() == {"commit": head, "changed": False}


def test_the_environment_says_what_is_needed_to_repeat():
    record = environment()
    assert record["versions"]["torch"].startswith("2.")
    assert record["hardware"]["cores"] >= 1
    assert set(commit()) == {"commit", "changed"}
