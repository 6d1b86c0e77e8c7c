import re
import shutil
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest

from lmpipe.kernels.runtime import loader
from lmpipe.planning.stages import STAGES
from lmpipe.provenance import code_digest as digest_module
from lmpipe.provenance import environment as environment_module
from lmpipe.provenance.code_digest import code_digest
from lmpipe.provenance.environment import commit, environment, peak_memory_bytes

READ_SOURCE = digest_module.read_source.__wrapped__


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a copy of the package's sources that a test may edit."""
    copy = tmp_path / "lmpipe"
    shutil.copytree(digest_module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digest_module, "PACKAGE", copy)
    monkeypatch.setattr(environment_module, "PACKAGE", copy)
    monkeypatch.setattr(digest_module, "read_source", lambda path: parse(path.read_text("utf-8")))
    return copy


@cache
def parse(text):
    """Parse a source file, once for all copies."""
    return READ_SOURCE(SimpleNamespace(read_text=lambda encoding: text))


def digest(*names):
    digest_module.data_digest.cache_clear()
    return code_digest(*names)


def digests_of_stages():
    digest()
    return {stage.rule: code_digest(*stage.code) for stage in STAGES}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_closure_has_what_computes_and_leaves_the_rest_out():
    modules = set(code_digest("training.run"))
    numeric = {"training.run", "model.transformer", "training.optimizer", "data.token_dataset", "study.settings"}
    assert numeric | {"torch", "numpy"} <= modules
    assert not {name for name in modules if name.startswith(("cli", "io", "provenance", "planning", "report"))}


BPE, RUNTIME = "kernels.bpe.", "kernels.runtime."


def test_digest_follows_kernels_that_are_loaded_by_name():
    compiler = {"numba", f"{RUNTIME}intrinsics", f"{RUNTIME}compile", f"{BPE}structs", f"{BPE}pretokenizer_kernels"}
    for module, kernels in {
        "tokenizer.pretoken_counts": "pretoken_table_kernels",
        "tokenizer.bpe_training": "merge_kernels",
        "data.encode": "encode_kernels",
    }.items():
        assert compiler | {BPE + kernels} <= set(code_digest(module))
    assert f"{BPE}encode_kernels" not in code_digest("tokenizer.bpe_training")
    assert {"kernels.transformer.infer", "numba"} <= set(code_digest("generation.samples"))


def test_every_module_that_loads_kernels_declares_them():
    loading = [path for path in digest_module.PACKAGE.rglob("*.py") if "runtime.loader import" in path.read_text()]
    for path in (path for path in loading if "runtime" not in path.parts):
        name = ".".join(path.relative_to(digest_module.PACKAGE).with_suffix("").parts)
        declared = re.search(r'^KERNEL_MODULE = "lmpipe\.(.*)"', path.read_text(), re.MULTILINE)
        assert declared and declared[1] in code_digest(name)
        assert all(call.startswith("KERNEL_MODULE") for call in re.findall(r"\bload\((.*?)\)", path.read_text()))


def test_kernel_families_do_not_count_for_each_other():
    training = set(code_digest("training.run"))
    tokenizing = set(code_digest("tokenizer.bpe_training", "tokenizer.pretoken_counts", "data.encode"))
    assert {"kernels.runtime.simd_float32", "kernels.transformer.train", "kernels.runtime.openmp"} <= training
    assert not {name for name in training if name.startswith("kernels.bpe")}
    assert not {name for name in tokenizing if name.startswith("kernels.transformer")}


def test_field_of_a_bpe_struct_changes_no_training_digest(package, monkeypatch):
    monkeypatch.setattr(loader, "KERNELS", package / "kernels")
    training, merging = "lmpipe.kernels.transformer.train", "lmpipe.kernels.bpe.merge_kernels"
    digests = digest("training.run"), digest("tokenizer.bpe_training")
    keys = loader.code_key(training), loader.code_key(merging)
    edit(package / "kernels/bpe/structs.py", 'TABLE = struct("', 'TABLE = struct("new_field ')
    assert digest("training.run") == digests[0] and loader.code_key(training) == keys[0]
    assert digest("tokenizer.bpe_training") != digests[1] and loader.code_key(merging) != keys[1]


def test_package_name_means_all_of_its_modules():
    problems = {f"analysis.problems.{name}" for name in ("unicode", "generate", "adamw_accounting")}
    assert problems <= set(code_digest("analysis.problems"))


def test_comments_and_docstrings_change_no_digest(package):
    before = digest("training.run")
    edit(package / "model/transformer.py", '"""', '"""Another word. ')
    append(package / "model/transformer.py", "\n\n# a comment\n")
    edit(package / "training/run_documents.py", '"""Name of the experiment."""', '"""Name of an experiment."""')
    assert digest("training.run") == before


def test_formula_changes_the_modules_that_use_it_and_no_other(package):
    before, tokenizers = digest("training.run"), digest("tokenizer.bpe_training")
    append(package / "model/transformer.py", "\n\nNEW = 1\n")
    after = digest("training.run")
    assert {name for name in after if after[name] != before[name]} == {"model.transformer"}
    assert digest("tokenizer.bpe_training") == tokenizers


def test_init_cli_io_and_provenance_change_no_digest(package):
    before = digests_of_stages()
    inits = list(package.rglob("__init__.py"))
    others = [path for folder in ("cli", "io", "provenance") for path in (package / folder).glob("*.py")]
    assert len(inits) > 10 and len(others) > 8
    for path in {*inits, *others, package / "errors.py"}:
        append(path, "\n\nNEW = 1\n")
    assert digests_of_stages() == before


def test_word_of_a_story_changes_the_digest_of_make_corpus_alone(package):
    before = digests_of_stages()
    edit(package / "data/sources/story_text/words.yaml", "treasure hunt,", "treasure map,")
    after = digests_of_stages()
    assert {rule for rule in after if after[rule] != before[rule]} == {"make_corpus"}


def test_templates_count_by_content(package):
    before = digest("report/templates")
    path = next(path for path in (package / "report/templates").iterdir() if path.is_file())
    append(path, " ")
    assert digest("report/templates") != before


def test_an_unknown_module_is_an_error():
    with pytest.raises(ValueError, match="no module 'modle'"):
        code_digest("modle")


def test_peak_memory_is_this_process_and_not_its_parent():
    ballast = bytearray(400_000_000)
    code = "from lmpipe.provenance.environment import peak_memory_bytes; print(peak_memory_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak_memory_bytes() > len(ballast)
    assert child < 200_000_000


def test_a_package_inside_another_projects_checkout_has_no_commit(package):
    git = ["git", "-C", str(package.parent), "-c", "user.name=n", "-c", "user.email=e"]
    (package.parent / "another.txt").touch()
    for arguments in (["init", "--quiet"], ["add", "another.txt"], ["commit", "--quiet", "--message", "another"]):
        subprocess.run([*git, *arguments], check=True)
    assert commit.__wrapped__() == (None, None)
    subprocess.run([*git, "add", "."], check=True)
    assert commit.__wrapped__()[1] is True
    subprocess.run([*git, "commit", "--quiet", "--message", "the package"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit.__wrapped__() == (head, False)


def test_environment_has_versions_hardware_and_commit():
    record = environment()
    assert record.versions["torch"].startswith("2.")
    assert record.hardware.cores >= 1
    assert (record.commit, record.dirty) == commit()
