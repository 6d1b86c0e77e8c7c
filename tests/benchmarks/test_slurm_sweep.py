from benchmarks.endurance import slurm_sweep
from benchmarks.endurance.fake_training import FAULTS, fault_of
from benchmarks.endurance.slurm_sweep import remove_waiting_jobs, sweep_study
from lmpipe.planning.plan import load_plan


def test_faults_meet_their_percentage_of_as_many_runs_as_requested():
    assert len(load_plan(sweep_study(300), "the sweep").runs) == 300
    faults = [fault_of(str(number), FAULTS) for number in range(10_000)]
    for fault, percent in FAULTS.items():
        assert abs(faults.count(fault) / 100 - percent) < 1
    assert faults == [fault_of(str(number), FAULTS) for number in range(10_000)]


def test_waiting_jobs_are_preempted_or_cancelled_until_the_call_ends(tmp_path, monkeypatch):
    for job, fault in {"7": "preempt", "8": "cancel", "9": ""}.items():
        (tmp_path / job).write_text(f"{fault}\n")
    commands = []

    class Call:
        def poll(self):
            return 0 if commands else None

    monkeypatch.setattr(slurm_sweep.slurm, "succeeds", lambda *command: commands.append(command) or True)
    assert remove_waiting_jobs(tmp_path, Call()) == {"preempt": 1, "cancel": 1}
    assert sorted(commands) == [("scancel", "8"), ("scontrol", "requeue", "7")]
    assert [path.name for path in tmp_path.iterdir()] == ["9"]
