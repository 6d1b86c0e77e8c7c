"""Formatters and linters decide the layout; this holds them to it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "workflow"],
    ],
    ids=" ".join,
)
def test_layout(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.workflow
def test_snakemake_lint_finds_nothing_but_missing_environments():
    # Rules run in the environment that runs Snakemake: one environment for all, so none for each rule.
    result = subprocess.run(["snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True)
    output = result.stdout + result.stderr
    findings = [line.strip() for line in output.splitlines() if line.strip().startswith("* ")]
    assert findings, output
    assert set(findings) == {"* Specify a conda environment or container for each rule.:"}, output
