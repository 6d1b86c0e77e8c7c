import shlex

import pytest

from lmpipe.errors import InputError
from lmpipe.planning.lineage import Lineage, as_yaml, matching_files, rebuild_commands, relevant_settings
from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import records_of
from lmpipe.report.plots.experiment import plot_experiment
from tests.support.fake_results import CORPORA, EXPERIMENTS, fabricate_records, fabricate_study, write_record

TABLE = "experiments/no_pos_emb/table.csv"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    chosen = {name: EXPERIMENTS[name] for name in ("learning_rate", "no_pos_emb", "main_experiment")}
    results = fabricate_study(tmp_path_factory.mktemp("recorded"), chosen)
    for experiment in results.experiments():
        plot_experiment(experiment, results.folder / "experiments" / experiment.name)
    fabricate_records(results)
    return results


@pytest.fixture(scope="module")
def lineage(study):
    plan = load_plan(study.study, "the study")
    return Lineage.read(study.folder, [path for paths in records_of(plan).values() for path in paths])


def test_the_jobs_behind_a_file_are_those_of_its_experiment_and_corpus(lineage):
    jobs = lineage.ancestors([TABLE])
    assert [job.rule for job in jobs] == ["plot_experiment", "train", "train", "encode_corpus", "make_corpus"]
    assert {name.split("/")[1] for job in jobs for name in job.outputs if name.startswith("runs/")} == {"no_pos_emb"}


def test_nothing_lies_behind_a_file_without_a_record(lineage):
    assert lineage.ancestors(["experiments/none/table.csv"]) == []


def test_a_pattern_stands_for_every_run(lineage, study):
    files = matching_files(lineage, ["runs/*/*/seed*/summary.json"])
    assert len(files) == sum(map(len, study.plan.values()))
    assert rebuild_commands("laptop", ["runs/*/*/seed*/summary.json"], lineage.producers(files))[1] == (
        "snakemake --cores 2 --forcerun train --configfile study.yaml"
    )


def test_a_copied_run_counts_the_time_of_its_training(lineage, study):
    (run,) = [run for run in study.experiment("no_pos_emb").runs if run.name == "nope"]
    (job,) = lineage.producers(["runs/no_pos_emb/nope/seed0/summary.json"])
    assert job.wall_seconds == run.summary["train_seconds"]


def test_commands_name_what_they_make_and_force_the_rules_that_made_it(lineage):
    assert rebuild_commands("laptop", [TABLE], lineage.producers([TABLE])) == [
        "lmpipe forget results/laptop",
        f"snakemake --cores 2 results/laptop/{TABLE} --forcerun train --configfile study.yaml",
    ]
    corpus = "corpora/stories/corpus.json"
    (command,) = rebuild_commands("laptop", [corpus], lineage.producers([corpus]))
    assert shlex.split(command)[3:6] == [f"results/laptop/{corpus}", "--forcerun", "make_corpus"]


def test_the_part_of_a_study_that_decides_a_result_is_part_of_it(lineage, study):
    part = relevant_settings(study.study, lineage.ancestors([TABLE]))
    assert list(part) == ["seeds", "corpora", "model", "training", "experiments"]
    assert part["experiments"] == {"no_pos_emb": study.study["experiments"]["no_pos_emb"]}
    assert part["corpora"] == {"stories": CORPORA["stories"]}
    assert "best_of: learning_rate" in as_yaml(part)


def test_a_damaged_record_is_an_input_error(tmp_path):
    write_record(tmp_path, "runs/a", "train", [], ["summary.json"], hardware="a machine")
    with pytest.raises(InputError, match=r"provenance\.json: hardware"):
        Lineage.read(tmp_path, ["runs/a/provenance.json"])
