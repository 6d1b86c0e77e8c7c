"""The smoke study, whole: run once in a folder with a space in its name, then looked at from every side."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.results import Results
from lmpipe.analysis.run_states import StudyFiles
from lmpipe.analysis.runs import Run
from lmpipe.data.encode import encode_file
from lmpipe.planning.plan import load_plan, read_plan
from lmpipe.planning.session import find_study
from lmpipe.provenance.checksums import CHECKSUMS, read_checksums, verify
from lmpipe.provenance.job_records import RECORD, StudyProvenance
from lmpipe.report.prose import shared_names
from lmpipe.study.problems import PROBLEMS
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.run_documents import BestRun
from tests.support.browser import VIEWS, opened, problems_of
from tests.support.prose_lint import lint
from tests.support.work import planned_jobs
from tests.support.workflow import ROOT, SMOKE, call_snakemake


@pytest.fixture(scope="module")
def results(finished):
    plan = load_plan(finished.study(), "smoke")
    return Results(finished.results, plan.study, plan.run_keys())


@pytest.fixture
def clone(finished, tmp_path):
    """Return a copy of the finished clone, to be changed."""
    return finished.copy(tmp_path / "a copy")


@pytest.fixture(scope="module")
def findings(results):
    return Findings.read(results.folder / "findings.json").problems


def test_finished_study_has_nothing_to_do_and_a_dry_run_loads_neither_torch_nor_numba(finished):
    code = (
        "import sys\nfrom snakemake.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    assert not end.code\nprint({'torch', 'numba', 'llvmlite'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(finished.folder / "src")}
    command = [sys.executable, "-c", code, "-n", "--configfile", SMOKE]
    done = subprocess.run(command, cwd=finished.folder, env=environment, capture_output=True, text=True)
    assert "Nothing to be done" in done.stdout, done.stdout + done.stderr
    assert done.stdout.endswith("set()\n")


def test_unknown_target_is_one_line_with_the_nearest_names(finished):
    target = "results/smoke/runs/learning_rate/grid_max_lr=0.02/seed0/summary.json"
    done = finished.snakemake(target, "--dry-run", check=False)
    assert done.returncode == 1
    assert "learning_rate/grid_max_lr=0.03/seed0" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_every_problem_is_answered(findings):
    assert set(findings) == {*PROBLEMS, "learning_rate_no_norm"}
    statuses = {problem: finding.status for problem, finding in findings.items()}
    assert set(statuses.values()) == {"answered"}, statuses


def test_prose_of_a_trained_study_has_no_fault(results, findings):
    assert lint(findings, shared_names(results.study)) == []


def test_findings_say_everything_with_figures(findings):
    for problem, finding in findings.items():
        assert finding.metrics, problem
        for name, figure in finding.metrics.items():
            assert figure.source, f"{problem}.{name} has no source"
            assert figure.value is not None or figure.missing_reason, f"{problem}.{name} is undefined without a reason"


def test_gpt2_xl_is_exact(findings):
    figures = findings["transformer_accounting"].metrics
    assert figures["gpt2_xl_2025_parameters"].value == 2_127_057_600
    assert figures["gpt2_xl_2025_bytes"].value == 8_508_230_400
    assert figures["gpt2_xl_2025_forward_flops"].value == 4_513_336_524_800


def test_the_report_is_small_and_works_in_a_browser(browser, results):
    assert (results.folder / "report.html").stat().st_size < 3_000_000
    for view in VIEWS:
        with opened(browser, results.folder / "report.html", *view) as page:
            assert problems_of(page) == [], view


def forced(command):
    """Return the rules that a command of the report forces."""
    return command[command.index("--forcerun") + 1 : command.index("--configfile")]


def test_every_section_says_how_it_was_made_and_its_command_can_be_given(finished, results):
    html = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "have no record of provenance" not in html
    assert [html.count(f'id="{problem}"') for problem in PROBLEMS] == [1] * len(PROBLEMS)
    blocks = re.findall('class="commands"><code>(.*?)</code>', html, re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("snakemake")]
    assert commands
    targets = {argument for command in commands for argument in command if argument.startswith("results/")}
    targets.remove("results/smoke/study.yaml")  # the configfile
    rules = {rule for command in commands if "--forcerun" in command for rule in forced(command)}
    planned = finished.snakemake("--dry-run", *sorted(targets), "--forcerun", *sorted(rules)).stdout
    assert rules >= {"train", "train_bpe", "generate", "account_models", "demonstrate_unicode", "sgd_toy"}
    assert all(re.search(rf"^{rule} +[0-9]+$", planned, re.MULTILINE) for rule in rules)


def test_the_diverged_run_is_a_result(results):
    run = Run.read(results.folder / "runs" / "learning_rate" / "edge_max_lr=300.0" / "seed0")
    assert run.status == "diverged"
    assert run.summary.detected_step > 0


def test_best_of_is_the_best_grid_point(results):
    best = BestRun.read(results.paths.best("learning_rate"))
    losses = {run.config.training.max_lr: run.loss for run in results.experiment("learning_rate").runs if run.loss}
    assert best.max_lr == min(losses, key=losses.get)
    assert min(losses) < best.interpolated_lr < max(losses)
    (main, *_) = results.experiment("main_experiment").runs
    assert main.config.training.max_lr == main.config.lr_source.interpolated_lr == best.interpolated_lr
    batch = Run.read(results.folder / "runs/batch_size_experiment/batch_size=4_max_lr=sqrt_batch_size-0.5/seed0")
    assert batch.config.training.max_lr == pytest.approx(best.max_lr * 0.5 * (4 / 8) ** 0.5, rel=1e-12)


@pytest.fixture(scope="module")
def collected(results):
    """Return the study's provenance.json."""
    return json.loads((results.folder / "provenance.json").read_text(encoding="utf-8"))


def test_every_result_is_named_in_exactly_one_record(results, collected):
    others = {"store", "benchmarks", "provenance.json", "SHA256SUMS", "study.yaml", "session.json"}
    files = [path.relative_to(results.folder) for path in results.folder.rglob("*") if path.is_file()]
    files = {path.as_posix() for path in files if path.parts[0] not in others and path.name != ".snakemake_timestamp"}
    named = [
        (Path(record).parent / output).as_posix()
        for record, content in collected["records"].items()
        for output in content["outputs"]
    ]
    assert len(named) == len(set(named))
    assert {*named, *collected["records"]} == files == set(read_checksums(results.folder / CHECKSUMS)) - {RECORD}
    assert "tokens/docs/train.bin" in named
    assert "runs/main_experiment/docs/seed0/model.safetensors" in named


def test_checksums_lead_from_the_report_back_to_the_corpora(collected):
    files = StudyProvenance.model_validate(collected).files
    reached = []
    for record, content in collected["records"].items():
        for path, checksum in content["inputs"].items():
            name = os.path.normpath(Path(record).parent / path)
            assert files[name].sha256 == checksum["sha256"], f"{record}: {name}"
            reached.append(name)
    unused = files.keys() - set(reached)
    for_readers = {"report.html", "runs.csv", "runs.parquet"}
    assert {name for name in unused if not name.startswith("figures/")} == for_readers


def test_records_say_what_made_the_study(collected):
    records = collected["records"]
    assert collected["settings"]["study"] == collected["study"] == "smoke"
    for path, record in records.items():
        assert record["code"] and record["versions"]["lmpipe"] and record["hardware"]["cores"], path
        assert record["wall_seconds"] > 0 and record["started_at"] and "dirty" in record, path
    runs = [record for path, record in records.items() if path.startswith("runs/")]
    assert {record["cache_hit"] for record in runs} == {True, False}
    assert records["runs/layer_norm_ablation/baseline/seed1/provenance.json"]["seeds"] == [1]


def test_a_finished_study_is_verified_and_a_changed_byte_is_found(results, clone, capsys):
    assert verify(results.folder)
    assert capsys.readouterr().out == f"all {len(read_checksums(results.folder / CHECKSUMS))} files agree\n"
    path = clone.results / "tokens" / "stories" / "valid.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not verify(clone.results)
    assert capsys.readouterr().out.startswith("changed: tokens/stories/valid.bin\n1 of ")


def test_logs_and_benchmarks_lie_where_the_readme_says(finished):
    assert (finished.folder / "logs/smoke/train/no_pos_emb/baseline/seed1.log").is_file()
    assert (finished.results / "benchmarks/train/no_pos_emb/baseline/seed1.tsv").is_file()
    assert not list(finished.folder.rglob("*.tmp-*"))


def test_targets_by_name(tmp_path):
    targets = ("tokenizers", "accounting", "experiments", "samples")
    planned = planned_jobs(call_snakemake(tmp_path, "--dry-run", *targets, "--configfile", ROOT / SMOKE).stdout)
    jobs = {"make_corpus": 2, "count_pretokens": 2, "train_bpe": 2, "encode_corpus": 4, "train": 22, "select_best": 2}
    jobs |= {"account_models": 1, "plot_experiment": 8, "generate": 2}
    assert planned == jobs | dict.fromkeys(targets, 1)


def test_one_target_is_done_again_alone_and_snakemakes_own_report_has_captions(clone):
    target = clone.results / "tokenizers/docs/tokenizer.json"
    before = target.read_bytes()
    target.unlink()
    assert clone.snakemake("results/smoke/tokenizers/docs/tokenizer.json").stderr.count("Finished jobid") == 1
    assert target.read_bytes() == before
    clone.snakemake("--report", "report.zip")
    with zipfile.ZipFile(clone.folder / "report.zip") as archive:
        names = archive.namelist()
        text = "".join(archive.read(name).decode(errors="replace") for name in names if name.endswith((".html", ".js")))
    assert any(name.endswith(".svg") for name in names)
    assert "Validation loss" in text
    assert "pre_norm_ablation" in text


def test_a_wrong_study_stops_before_the_first_job(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text((ROOT / SMOKE).read_text(encoding="utf-8").replace("study: smoke", "study: ../x"), encoding="utf-8")
    result = call_snakemake(tmp_path, "--configfile", path, check=False)
    assert result.returncode == 1
    assert "wrong.yaml: study is '../x'" in result.stderr
    assert "Traceback" not in result.stderr
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != ".snakemake"] == ["wrong.yaml"]


def test_a_failed_study_says_so_and_how_to_report_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "empty.txt").write_text(" ", encoding="utf-8")
    study = yaml.safe_load((ROOT / SMOKE).read_text(encoding="utf-8"))
    docs = {"source": "files", "files": ["empty.txt"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 512}}
    study["corpora"]["docs"] = docs
    path = tmp_path / "failing.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    target = "results/smoke/corpora/docs/corpus.json"
    result = call_snakemake(tmp_path, target, "--configfile", path, check=False)
    assert result.returncode == 1
    assert "lmpipe report results/smoke" in result.stdout + result.stderr
    # Texts of one's own are named from where snakemake ran.
    monkeypatch.chdir(tmp_path)
    session = find_study(tmp_path / "results" / "smoke")
    assert session.plan.study_settings() == load_plan(study, "failing").study_settings()
    assert session.is_running is False
    (failed,) = StudyFiles(session).snapshot(time.time()).failed_jobs
    assert failed.log == "make_corpus/docs.log"
    assert failed.line.startswith("lmpipe make-corpus: ")


def diffs():
    """Return the changes that config/README.md shows under "Extending"."""
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8").partition("## Extending")[2]
    return [block.splitlines() for block in re.findall(r"```diff\n(.*?)```", text, re.DOTALL)]


def apply(diff, lines):
    """Return a study's lines with one of the README's changes made; lines between those shown may be left out there."""
    position, changed = 0, list(lines)
    for line in diff:
        mark, content = line[0], line[1:]
        if mark == "+":
            changed.insert(position, content)
            position += 1
        else:
            start = changed.index(content, position)
            position = start if mark == "-" else start + 1
            if mark == "-":
                del changed[start]
    return changed


def test_extensions_are_at_most_five_lines():
    assert len(diffs()) == 6
    for diff in diffs():
        assert sum(line[0] == "+" for line in diff) <= 5, diff


def test_every_extension_of_the_readme_does_just_what_it_adds(clone, monkeypatch, tmp_path):
    """All changes at once, on top of the finished study: only what is new is planned, and some of it computed.

    A text in shards has a job for each; only the joined tokens stay, the same as those of the whole text.
    """
    (clone.folder / "texts").mkdir()
    for corpus, name in (("stories", "a"), ("docs", "b")):
        text = (clone.results / f"corpora/{corpus}/train.txt").read_bytes()[:100_000]
        (clone.folder / f"texts/{name}.txt").write_bytes(text)
    lines = (clone.folder / SMOKE).read_text(encoding="utf-8").splitlines()
    for diff in diffs():
        lines = apply(diff, lines)
    path = Path("extended.yaml")
    text = "\n".join(lines).replace("    files: texts/", "    shards: 2\n    files: texts/")
    (clone.folder / path).write_text(text, encoding="utf-8")

    monkeypatch.chdir(clone.folder)
    old, new = map(read_plan, (SMOKE, path))
    fresh = set(new.runs_by_folder) - set(old.runs_by_folder)
    planned = clone.snakemake("--dry-run", study=path).stdout
    trained = set(re.findall(r"^    output: results/smoke/(runs/.*?)/config.json", planned, re.MULTILINE))
    # A new learning rate may change which one is the best; runs that take the best are then asked for again.
    assert trained >= fresh and all(new.runs_by_folder[run].best_of for run in trained - fresh), trained
    jobs = planned_jobs(planned)
    rules = ("make_corpus", "count_pretokens", "train_bpe", "account_models", "encode_shard", "concat_tokens")
    assert [jobs.get(rule, 0) for rule in rules] == [1, 2, 2, 0, 2, 1], "a corpus of two files, another vocabulary"
    swept = new.runs_by_folder["runs/vocabulary_and_context/vocab_size=320_context_length=128/seed0"]
    assert (new.tokenizers[swept.tokenizer], swept.model.context_length) == (("stories", 320), 128)
    mine = "results/smoke/runs/main_experiment/mine/seed0"
    clone.snakemake(f"{mine}/summary.json", study=path)
    config = Run.read(clone.folder / mine).config
    assert (config.corpus, config.model.vocab_size, config.model.context_length) == ("mine", 512, 64)

    tokens = clone.results / "tokens/mine"
    files = sorted(file.name for file in tokens.rglob("*") if file.is_file() and file.stem.startswith("train"))
    assert files == ["train.bin", "train.json", "train.provenance.json"]
    tokenizer, whole = Tokenizer.from_folder(clone.results / "tokenizers/mine"), tmp_path / "all.bin"
    encode_file(clone.results / "corpora/mine/train.txt", tokenizer, whole, whole.with_suffix(".json"), "mine")
    for suffix in (".bin", ".json"):
        assert (tokens / f"train{suffix}").read_bytes() == whole.with_suffix(suffix).read_bytes()
