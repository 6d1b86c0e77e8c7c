"""`lmpipe adopt`: runs are kept after a change of code that leaves their results, and after no other."""

import json
import shutil
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.io.files import sha256_of
from lmpipe.training.run_documents import Adoptions, RunConfig, RunSummary
from tests.support.cli_cases import RESULTS
from tests.support.training_runs import rows_of

NEW_CODE = {"training.step": "edited"}
RUN = "sweep/max_lr=0.01/seed0"


@pytest.fixture
def folder(whole_study, tmp_path, monkeypatch):
    """Return the results folder of a finished study, whose code has changed since."""
    shutil.copytree(whole_study, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for module in ("run", "adoption", "trainer"):
        monkeypatch.setattr(f"lmpipe.training.{module}.code_digest", lambda *names: NEW_CODE)
    return Path(RESULTS)


def runs_of(folder):
    return sorted(path.parent for path in folder.glob("runs/*/*/*/summary.json"))


def adopted(folder):
    """Return the runs that are in the store under the new code."""
    stored = []
    for run in runs_of(folder):
        fingerprint = RunConfig.read(run / "config.json").fingerprint(NEW_CODE)
        if (folder / "store" / fingerprint / "summary.json").exists():
            stored.append(run)
    return stored


def adopt(folder, capsys, *options):
    """Adopt the study's runs; return what was logged."""
    main(["adopt", str(folder), "--device", "cpu", *options])
    return capsys.readouterr().err


def test_runs_that_new_code_repeats_are_copied_from_the_store_then(folder, capsys):
    before = {path: path.read_bytes() for run in runs_of(folder) for path in run.iterdir()}
    adopt(folder, capsys)
    assert adopted(folder) == runs_of(folder)
    for run in runs_of(folder):
        main(["train", str(folder), run.relative_to(folder / "runs").as_posix(), "--device", "cpu"])
    for path, content in before.items():
        assert path.name == "provenance.json" or path.read_bytes() == content
    assert json.loads((run / "provenance.json").read_text(encoding="utf-8"))["cache_hit"]


def test_digests_and_steps_are_recorded(folder, capsys):
    adopt(folder, capsys, "--steps", "5")
    adoptions = Adoptions.read(folder / "adoptions.json").runs
    assert sorted(run.run for run in adoptions) == [
        run.relative_to(folder / "runs").as_posix() for run in runs_of(folder)
    ]
    for run in adoptions:
        path = folder / "runs" / run.run
        config, summary = RunConfig.read(path / "config.json"), RunSummary.read(path / "summary.json")
        assert run.old_fingerprint == config.fingerprint(summary.code)
        assert run.new_fingerprint == config.fingerprint(NEW_CODE)
        assert (run.old_code, run.new_code) == (summary.code, NEW_CODE)
        assert run.replayed_steps == 5
    content = (folder / "adoptions.json").read_bytes()
    adopt(folder, capsys)
    assert (folder / "adoptions.json").read_bytes() == content, "what is current is not adopted again"


def test_every_run_is_replayed_and_the_longest_of_each_configuration_trained(folder, capsys, monkeypatch):
    from lmpipe.training import adoption

    replayed, replay = [], adoption.replay
    monkeypatch.setattr(adoption, "replay", lambda run, *rest: replayed.append((run, rest[0])) or replay(run, *rest))
    adopt(folder, capsys)
    assert sorted(run.folder for run, _ in replayed) == runs_of(folder)
    longest = {}
    for run, _ in replayed:
        longest[run.configuration] = max(longest.get(run.configuration, 0), run.summary.steps)
    trained = [run for run, steps in replayed if steps]
    assert {run.configuration: run.summary.steps for run in trained} == longest
    assert len(trained) == len(longest) < len(replayed)


def last_step(folder):
    return int(rows_of(folder / "runs" / RUN)[-1]["step"])


def change_update(monkeypatch, folder):
    """Let every update differ a little."""
    from lmpipe.training.optimizer import AdamW

    step = AdamW.step
    monkeypatch.setattr(AdamW, "step", lambda self, lr, grad_scale=None: step(self, lr * 1.001, grad_scale))


def change_late_update(monkeypatch, folder):
    """Let the updates from half of the run on differ."""
    from lmpipe.training.optimizer import AdamW

    step, half = AdamW.step, last_step(folder) // 2

    def late(self, lr, grad_scale=None):
        step(self, lr * 1.01 if self.step_count >= half else lr, grad_scale)

    monkeypatch.setattr(AdamW, "step", late)


def change_initial_weights(monkeypatch, folder):
    from lmpipe.model.transformer import TransformerLM

    def init(self, config, seed=None, device=None):
        original(self, config, None if seed is None else seed + 1, device)

    original = TransformerLM.__init__
    monkeypatch.setattr(TransformerLM, "__init__", init)


def change_end_of_schedule(monkeypatch, folder):
    from lmpipe.training import loop

    original, last = loop.cosine_lr, last_step(folder)
    monkeypatch.setattr(loop, "cosine_lr", lambda step, *rest: original(step, *rest) * (0.5 if step == last else 1))


def change_late_batches(monkeypatch, folder):
    from lmpipe.training import trainer

    original, last = trainer.batch_starts, last_step(folder)

    def starts(length, seed, step, *rest):
        return original(length, seed, step + (step == last), *rest)

    monkeypatch.setattr(trainer, "batch_starts", starts)


def change_divergence(monkeypatch, folder):
    monkeypatch.setattr("lmpipe.training.step.DIVERGENCE_NATS", -100.0)


def change_evaluations(monkeypatch, folder):
    from lmpipe.training import loop

    original = loop.evaluation_steps
    monkeypatch.setattr(loop, "evaluation_steps", lambda steps, number: original(steps, number) | {steps - 1})


def change_final_evaluation(monkeypatch, folder):
    from lmpipe.training import trainer

    def evaluate(model, tokens, *rest):
        return original(model, tokens[:-1], *rest)

    original = trainer.evaluate
    monkeypatch.setattr(trainer, "evaluate", evaluate)


def change_encoding(monkeypatch, folder):
    from lmpipe.training import adoption

    def encode(text, tokenizer, tokens, *rest):
        original(text, tokenizer, tokens, *rest)
        tokens.write_bytes(b"\1\0" + tokens.read_bytes()[2:])

    original = adoption.encode_file
    monkeypatch.setattr(adoption, "encode_file", encode)


@pytest.mark.parametrize(
    "change",
    [
        change_update,
        change_initial_weights,
        change_end_of_schedule,
        change_late_batches,
        change_divergence,
        change_evaluations,
        change_final_evaluation,
        change_encoding,
    ],
)
def test_code_that_computes_something_else_adopts_nothing(folder, capsys, monkeypatch, change):
    change(monkeypatch, folder)
    adopt(folder, capsys, "--steps", "3")
    assert adopted(folder) == [] and not (folder / "adoptions.json").exists()


def test_a_change_in_late_steps_is_found_by_replaying_them(folder, capsys, monkeypatch):
    change_late_update(monkeypatch, folder)
    adopt(folder, capsys, "--steps", "1000000")
    assert adopted(folder) == []


def test_only_configurations_that_repeat_are_adopted(folder, capsys, monkeypatch):
    from lmpipe.training import loop

    rate, original = RunConfig.read(folder / "runs" / RUN / "config.json").training.max_lr, loop.cosine_lr

    def change_one_rate(step, max_lr, *rest):
        return original(step, max_lr, *rest) * (1.01 if max_lr == rate else 1)

    monkeypatch.setattr(loop, "cosine_lr", change_one_rate)
    adopt(folder, capsys)
    rates = {run: RunConfig.read(run / "config.json").training.max_lr for run in runs_of(folder)}
    assert adopted(folder) == [run for run, other in rates.items() if other != rate] != []


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.csv", "summary.json"])
def test_files_that_changed_since_are_not_adopted(folder, capsys, name):
    path = folder / "runs" / RUN / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    adopt(folder, capsys)
    assert folder / "runs" / RUN not in adopted(folder)


def test_a_run_of_other_settings_is_not_adopted(folder, capsys):
    """The default of a setting may have changed with the code."""
    path = folder / "runs" / RUN / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["training"]["weight_decay"] = 0.5
    path.write_text(json.dumps(config), encoding="utf-8")
    adopt(folder, capsys)
    assert folder / "runs" / RUN not in adopted(folder)


def test_runs_of_another_device_or_several_processes_are_not_adopted(folder, capsys, monkeypatch):
    monkeypatch.setattr("lmpipe.training.loop.device_name", lambda device: "another processor")
    adopt(folder, capsys)
    assert adopted(folder) == []


def test_runs_of_a_version_without_a_key_are_adopted(folder, capsys):
    """`deterministic` came later."""
    for run in runs_of(folder):
        path, record = run / "summary.json", run / "provenance.json"
        checksum = sha256_of(path)
        path.write_text(path.read_text(encoding="utf-8").replace('"deterministic": true,', ""), encoding="utf-8")
        record.write_text(record.read_text(encoding="utf-8").replace(checksum, sha256_of(path)), encoding="utf-8")
        assert RunSummary.read(path).deterministic is None
    adopt(folder, capsys)
    assert adopted(folder) == runs_of(folder)


def test_unchanged_code_adopts_nothing_after_the_store_was_cleared(whole_study, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole_study, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    main(["clear-runs", RESULTS])
    adopt(Path(RESULTS), capsys)
    assert not list(Path(RESULTS).glob("store/*/summary.json"))
