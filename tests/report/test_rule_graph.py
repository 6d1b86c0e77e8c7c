import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import records_of
from lmpipe.report.plots.rule_graph import RULES, draw, jobs_of

ROOT = Path(__file__).parents[2]
# What reads all others, besides what it is drawn to read.
OF_ALL = ("find", "report", "collect_provenance")


def plan_of(path):
    return load_plan(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def reachable(edges):
    """All pairs of a rule and another that its results lead to."""
    pairs = set(edges)
    while more := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= more
    return pairs


def drawn_edges(plan):
    jobs = jobs_of(plan)
    return {(source, rule) for rule in jobs for source in RULES[rule].reads if source in jobs}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A study that uses every rule: downloads, shards, rates taken from a sweep, samples."""
    text = {"source": "url", "files": ["https://localhost/a.txt", "https://localhost/b.txt"], "valid_fraction": 0.1}
    study = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    study["corpora"]["docs"] = text | {"shards": 3, "tokenizer": {"vocab_size": 300}, "stands_for": "OpenWebText"}
    path = tmp_path_factory.mktemp("every rule") / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def test_the_drawing_leads_where_snakemake_goes(sharded):
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", sharded.parent]
    command += ["--cores", "1", "--rulegraph", "--forceall", "--configfile", sharded]
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)', answer))
    theirs = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", answer)}
    ours = drawn_edges(plan_of(sharded))
    assert set(jobs_of(plan_of(sharded))) == set(names.values()) - {"all"} == set(RULES)
    assert reachable(ours) == {pair for pair in reachable(theirs) if "all" not in pair}


def test_jobs_are_counted_as_planned(sharded):
    plan = plan_of(sharded)
    jobs = jobs_of(plan)
    assert jobs["train"] == len(plan.runs_by_folder)
    assert (jobs["download"], jobs["encode_shard"], jobs["join_tokens"], jobs["count_pretokens"]) == (2, 3, 1, 4)
    recorded = sum(map(len, records_of(plan).values()))
    assert sum(jobs.values()) == recorded + jobs["download"] + jobs["encode_shard"] + 1


@pytest.mark.parametrize("name", ["smoke", "config", "tinystories", "cs336"])
def test_no_box_lies_on_another_and_all_are_inside_the_picture(name):
    jobs = jobs_of(plan_of(ROOT / f"config/{name}.yaml"))
    svg = ElementTree.fromstring(draw(jobs, {"train": "1 h 2 min"}))
    width, height = map(float, svg.get("viewBox").split()[2:])
    boxes = [tuple(float(box.get(key)) for key in ("x", "y", "width", "height")) for box in svg.iter("rect")]
    assert len(boxes) == len(jobs)
    assert width <= 330, "letters would be too small on a phone"
    for x, y, wide, high in boxes:
        assert x >= 0 and y >= 0 and x + wide <= width and y + high <= height
    for index, (x, y, wide, high) in enumerate(boxes):
        assert all(abs(x - u) >= wide or abs(y - v) >= high for u, v, *_ in boxes[index + 1 :])


def test_the_picture_can_be_read_without_seeing_it():
    svg = ElementTree.fromstring(draw({"train": 21, "find": 1}, {"train": "14 s"}))
    assert svg.get("aria-label") == "The rules of this study in their order: train (21 jobs), find (1 job)."
    assert [text.text for text in svg.iter("text")] == ["train", "21 jobs", "14 s", "find", "1 job"]
