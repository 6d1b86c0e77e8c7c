"""Commands that a report prints run as printed."""

import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from tests.support.fake_results import skip_drawing
from tests.support.workflow import call_snakemake

ROOT = Path(__file__).parents[2]
MISSING, PLOT = Path("results/tiny/learning_rate_tuning.csv"), Path("results/tiny/experiments/tuned/table.csv")


def run(command: str) -> None:
    """Run a command in this folder, one of lmpipe in this process."""
    program, *arguments = shlex.split(command)
    if program == "lmpipe":
        main(arguments)
    else:
        assert program == "snakemake"
        call_snakemake(Path.cwd(), *arguments, cores=None)


@pytest.mark.workflow
def test_commands_for_a_file_everything_and_a_single_plot_run_as_printed(whole_study, tmp_path, monkeypatch):
    shutil.copytree(whole_study, tmp_path, dirs_exist_ok=True)
    for name in ("Snakefile", "workflow", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    skip_drawing(monkeypatch)
    MISSING.unlink()
    MISSING.with_suffix(".provenance.json").unlink()
    main(["report", "results/tiny"])
    html = Path("results/tiny/report.html").read_text(encoding="utf-8")
    commands = [unescape(block) for block in re.findall(r"<code>((?:snakemake|lmpipe) .*?)</code>", html, re.DOTALL)]
    named = {word for command in commands for word in shlex.split(command) if word.startswith("results/")}
    assert all(Path(word).exists() for word in named - {str(MISSING)}), "targets are files"

    run(next(command for command in commands if str(MISSING) in command))
    assert MISSING.exists()
    run(re.search("Continue with <code>(.*?)</code>", html)[1])
    assert 'id="missing"' not in Path("results/tiny/report.html").read_text(encoding="utf-8")
    PLOT.unlink()
    for line in next(command for command in commands if str(PLOT) in command).splitlines():
        run(line)
    assert PLOT.exists()
