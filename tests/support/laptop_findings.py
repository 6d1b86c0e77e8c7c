"""Findings of a real laptop study, stored for the tests of prose: `python -m tests.support.laptop_findings FOLDER`.

Tables and texts are left out: the prose does not read them. The study is stored, too, so that a test notices findings
of another one.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from lmpipe.analysis.finding import Findings
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import read_study
from lmpipe.study.loader import read_study_file

ROOT = Path(__file__).parents[2]
STUDY_FILE = ROOT / "config" / "config.yaml"
STORED = ROOT / "tests" / "report" / "laptop_findings.json"


def store(folder: str) -> None:
    """Store the findings of a finished laptop study."""
    plan, paths = read_study(folder)
    content = read_study_file(STUDY_FILE)
    if plan.study != load_plan(content, str(STUDY_FILE)).study:
        sys.exit(f"{folder} has results of another study than {STUDY_FILE}")
    findings = Findings.read(paths.findings)
    problems = {name: replace(finding, tables=[], texts=[]) for name, finding in findings.problems.items()}
    stored = Findings(study=findings.study, problems=problems).model_dump(mode="json")
    STORED.write_text(json.dumps({"study": content, "findings": stored}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    store(sys.argv[1])
