import re
from pathlib import Path

import pytest

from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import BY_COMMAND, BY_RULE, STAGES, records, stage_digest
from lmpipe.provenance.environment import PACKAGE
from tests.planning.test_plan import LAPTOP

ROOT = Path(__file__).parents[2]
RULES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))


def test_each_rule_of_the_workflow_has_a_stage():
    assert set(re.findall(r"^rule (\w+):", RULES, re.MULTILINE)) == set(BY_RULE)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.rule)
def test_rule_calls_the_command_of_its_stage_and_depends_on_its_code(stage):
    (rule,) = re.findall(rf"^rule {stage.rule}:\n(.*?)(?=^rule |\Z)", RULES, re.MULTILINE | re.DOTALL)
    assert f'"lmpipe {stage.command} ' in rule
    assert (f'code=stage_digest("{stage.rule}")' in rule) == bool(stage.code)
    assert all((PACKAGE / name).exists() for name in stage.code if "/" in name)
    assert stage_digest(stage.rule).keys() >= {name for name in stage.code if name != "analysis.problems"}
    assert BY_COMMAND["encode"].rule == "encode_corpus"


def test_study_without_the_handout_has_the_jobs_of_its_experiments():
    plan = load_plan(LAPTOP | {"handout": "none"}, "the laptop study")
    left_out = {path.partition(".")[0] for path in set(records(load_plan(LAPTOP, "laptop"))) - set(records(plan))}
    others = {"unicode", "accounting/provenance", "model_measurements", "learning_rate_tuning"}
    assert left_out == others | {"tokenizer_experiments"}, "batch sizes are shown by their experiment"
    experiments = {name: runs for name, runs in LAPTOP["experiments"].items() if name != "batch_size_experiment"}
    plan = load_plan(LAPTOP | {"handout": "none", "experiments": experiments}, "the laptop study")
    assert "batch_sizes.provenance.json" not in records(plan)


def test_each_job_has_a_record_of_its_own():
    plan = load_plan(LAPTOP, "the laptop study")
    paths = records(plan)
    assert len(set(paths)) == len(paths)
    assert {"corpora/docs/provenance.json", "unicode.provenance.json", "report.provenance.json"} <= set(paths)
    assert "experiments/learning_rate/best.provenance.json" in paths
    assert "experiments/no_pos_emb/best.provenance.json" not in paths, "no rate is taken from it"
    assert set(paths) - set(records(plan, without=("report",))) == {"report.provenance.json"}
