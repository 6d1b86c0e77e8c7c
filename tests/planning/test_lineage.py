import shlex

import pytest

from lmpipe.errors import InputError
from lmpipe.planning.lineage import Lineage, read_job
from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import records
from lmpipe.report.plots.experiment import plot_experiment
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study, skip_drawing, write_record

TABLE = "experiments/no_pos_emb/table.csv"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    experiments = {name: EXPERIMENTS[name] for name in ("learning_rate", "no_pos_emb", "main_experiment")}
    results = fabricate_study(tmp_path_factory.mktemp("recorded"), experiments)
    with pytest.MonkeyPatch.context() as patch:
        skip_drawing(patch)
        for experiment in results.experiments():
            plot_experiment(experiment, results.folder / "experiments" / experiment.name)
    fabricate_records(results)
    return results


@pytest.fixture(scope="module")
def lineage(study):
    plan = load_plan(study.study, "the study")
    return Lineage.read(study.folder, records(plan))


def test_ancestors_are_the_jobs_of_the_experiment_and_its_corpus(lineage):
    jobs = lineage.ancestors([TABLE])
    assert [job.rule for job in jobs] == ["plot_experiment", "train", "train", "encode_corpus", "make_corpus"]
    assert {name.split("/")[1] for job in jobs for name in job.outputs if name.startswith("runs/")} == {"no_pos_emb"}


def test_file_without_a_record_has_no_ancestors(lineage):
    assert lineage.ancestors(["experiments/none/table.csv"]) == []


def test_pattern_matches_every_run(lineage, study):
    assert len(lineage.files(["runs/*/*/seed*/summary.json"])) == sum(map(len, study.run_keys.values()))
    assert lineage.rebuild_commands(["runs/*/*/seed*/summary.json"], "laptop")[1] == (
        "snakemake --cores 2 --forcerun train --configfile results/laptop/study.yaml"
    )


def test_copied_run_has_the_time_of_its_training(lineage, study):
    (run,) = [run for run in study.experiment("no_pos_emb").runs if run.name == "nope"]
    job = lineage.ancestors(["runs/no_pos_emb/nope/seed0/summary.json"])[0]
    assert job.wall_seconds == run.summary.train_seconds


def test_rebuild_commands_name_their_targets_and_force_their_rules(lineage):
    assert lineage.rebuild_commands([TABLE], "laptop") == [
        "lmpipe clear-runs results/laptop",
        f"snakemake --cores 2 results/laptop/{TABLE} --forcerun train --configfile results/laptop/study.yaml",
    ]
    corpus = "corpora/stories/corpus.json"
    (command,) = lineage.rebuild_commands([corpus], "laptop")
    assert shlex.split(command)[3:6] == [f"results/laptop/{corpus}", "--forcerun", "make_corpus"]


def test_damaged_record_is_an_input_error(tmp_path):
    write_record(tmp_path, "runs/a", "train", [], ["summary.json"], hardware="a machine")
    with pytest.raises(InputError, match=r"provenance\.json: hardware"):
        Lineage.read(tmp_path, ["runs/a/provenance.json"])


def test_elapsed_time_counts_jobs_side_by_side_once_and_no_pause_between_calls(tmp_path):
    # Two jobs side by side, a second of scheduling, one job; the next day another.
    spans = {"a": ("00:00:00.500", 4), "b": ("00:00:02", 8), "c": ("00:00:11", 1.5), "d": ("23:00:00", 2)}
    for name, (time, seconds) in spans.items():
        started = {"started_at": f"2026-01-01T{time}+00:00", "wall_seconds": seconds}
        write_record(tmp_path, f"corpora/{name}", "make-corpus", [], ["corpus.json"], **started)
    lineage = Lineage.read(tmp_path, [f"corpora/{name}/provenance.json" for name in spans])
    assert lineage.elapsed_seconds == pytest.approx(12 + 2)
    job = lineage.jobs["corpora/c/provenance.json"]
    assert job.end - job.start == pytest.approx(1.5)
    assert job.start - lineage.jobs["corpora/a/provenance.json"].start == pytest.approx(10.5)


def test_time_is_unknown_if_the_training_of_a_copied_run_has_no_record(tmp_path):
    for name, seconds, is_copy in (("a", 60.0, False), ("b", 60.0, True), ("c", 50.0, True)):
        write_record(tmp_path, f"runs/{name}", "train", [], ["summary.json"], train_seconds=seconds, cache_hit=is_copy)
    paths = [f"runs/{name}/provenance.json" for name in "abc"]
    assert Lineage.read(tmp_path, paths[:2]).elapsed_seconds > 0
    assert Lineage.read(tmp_path, paths).elapsed_seconds is None


def test_a_copied_run_ends_when_its_job_does(tmp_path):
    write_record(tmp_path, "runs/a", "train", [], ["summary.json"], train_seconds=60.0, cache_hit=True)
    job = read_job(tmp_path / "runs/a/provenance.json", "runs/a/provenance.json")
    assert (job.wall_seconds, job.end - job.start) == (60, 2)
