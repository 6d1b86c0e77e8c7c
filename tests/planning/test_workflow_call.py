"""Shipped studies and profiles, and the call of the workflow that is part of the package."""

import tomllib
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.planning.plan import read_plan
from lmpipe.planning.workflow_call import PACKAGE, check_cache, copy_shipped, find_profile
from tests.support.workflow import call_module

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_first_study_is_small_and_explained():
    main(["init"])
    lines = Path("study.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12 and sum("#" in line for line in lines) >= 6
    plan = read_plan("study.yaml")
    assert 2 < len(plan.runs) < 10
    assert not plan.downloads()


@pytest.mark.parametrize("name", [None, "smoke", "slurm"])
def test_nothing_is_overwritten(name):
    copy = copy_shipped(name)
    file = copy / "profile.yaml" if copy.is_dir() else copy
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists"):
        copy_shipped(name)
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["laptop", "smoke", "tinystories", "cs336"])
def test_shipped_study_has_the_name_of_its_file(name):
    assert read_plan(copy_shipped(name)).study.study == Path(f"{name}.yaml").stem


@pytest.mark.parametrize(("name", "near"), [("smok", "smoke"), ("slrum", "slurm"), ("../config/smoke", "smoke")])
def test_unknown_name_comes_with_the_nearest(name, near):
    with pytest.raises(InputError) as caught:
        copy_shipped(name)
    assert near in caught.value.remedy
    assert not list(Path().iterdir())


def test_package_has_the_files_beside_src():
    for folder in ("config", "profiles", "workflow"):
        own, shipped = (sorted(p.relative_to(r) for p in r.rglob("*.*")) for r in (ROOT / folder, PACKAGE / folder))
        assert own and own == shipped


def test_wheel_has_every_file_of_the_package_that_is_no_module():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    declared = {path for pattern in patterns["package-data"]["lmpipe"] for path in PACKAGE.glob(pattern)}
    links = [PACKAGE / name for name in ("config", "profiles", "workflow")]
    files = [path for folder in (PACKAGE, *links) for path in folder.rglob("*") if path.is_file()]
    assert {path for path in files if path.suffix not in (".py", ".pyc")} <= declared


def test_profile_of_this_folder_comes_first():
    assert find_profile("gpu") == PACKAGE / "profiles/gpu"
    copy_shipped("gpu")
    assert find_profile("gpu") == find_profile("profiles/gpu") == Path("profiles/gpu")
    with pytest.raises(InputError, match="default"):
        find_profile("defualt")


def test_missing_executor_names_its_package(monkeypatch):
    assert find_profile("slurm")
    monkeypatch.setattr("lmpipe.planning.workflow_call.find_spec", lambda name: None)
    assert find_profile("gpu")
    with pytest.raises(InputError, match="pip install snakemake-executor-plugin-slurm"):
        find_profile("slurm")
    with pytest.raises(InputError, match="snakemake-executor-plugin-cluster-generic"):
        find_profile("cluster-generic")


@pytest.mark.parametrize("profile", ["slurm", "cluster-generic"])
def test_profile_names_its_missing_executor_to_plain_snakemake(profile, tmp_path):
    folder = copy_shipped(profile).rename(tmp_path / "profile")
    text = (folder / "profile.yaml").read_text(encoding="utf-8")
    missing = text.replace(f"executor: {profile}", "executor: absent").replace(f'"{profile}"', '"absent"')
    (folder / "profile.yaml").write_text(missing, encoding="utf-8")
    done = call_module(
        "snakemake", ["--snakefile", str(ROOT / "Snakefile"), "--profile", "profile"], tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install snakemake-executor-plugin-absent")


def test_missing_study_is_named(capsys):
    for words, where in (([], "study.yaml"), (["mine.yaml", "report"], "mine.yaml"), (["report"], "study.yaml")):
        with pytest.raises(SystemExit) as caught:
            main(["run", *words])
        assert caught.value.code == 1
        assert capsys.readouterr().err.startswith(f"lmpipe run: {where}: ")


def test_read_only_home_is_refused_with_the_variable_that_helps(tmp_path, monkeypatch):
    """Also for root, whom permissions do not stop."""
    main(["init"])
    monkeypatch.setenv("HOME", "/proc/home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        check_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check_cache()
