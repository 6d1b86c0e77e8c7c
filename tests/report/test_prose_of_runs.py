"""Prose of the problems about training runs, read by the linter."""

import pytest

from lmpipe.analysis.problems.registry import analyze_problem
from lmpipe.report.prose import shared_names
from tests.support.fake_results import change_summary, fabricate_study, fabricate_yardsticks
from tests.support.prose_lint import lint

NGRAMS = {1: 5.21, 2: 3.0, 3: 2.3, 4: 2.1, 5: 2.0}
EVERY_SEED = [f"no_pos_emb/nope/seed{seed}" for seed in range(1)]


def linted(results):
    names = [*results.run_keys, "experiment_log"]
    problems = {name: analyze_problem(name, results) for name in names}
    return lint(problems, shared_names(results.study))


def test_prose_of_a_study_has_no_faults(fabricated):
    assert linted(fabricated) == []


@pytest.mark.parametrize(
    "failed",
    [
        ["learning_rate/max_lr=0.001/seed0", "pre_norm_ablation/post_norm/seed1", *EVERY_SEED],
        [f"pre_norm_ablation/{name}/seed{seed}" for name in ("baseline", "post_norm") for seed in range(3)],
        ["main_experiment/stories/seed0", "batch_size_experiment/batch_size=64_max_lr=sqrt_batch_size-1.0/seed0"],
    ],
)
def test_prose_of_failed_seeds_has_no_faults(tmp_path, failed):
    results = fabricate_study(tmp_path)
    fabricate_yardsticks(results, "stories", {409_600: NGRAMS, 2_048_000: NGRAMS})
    for run in failed:
        change_summary(results, run, status="diverged", validation_loss=None, bits_per_byte=None)
    assert linted(results) == []
