import copy
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.io.formatting import format_bytes
from lmpipe.planning.cost_model import CPU_CORE, RunCost
from lmpipe.planning.estimate import Estimate, distinct_runs, download_notice, format_downloads, humanize_duration
from lmpipe.planning.plan import load_plan, read_plan
from lmpipe.study.settings import ModelConfig
from tests.planning.test_plan import plan_with

CONFIG = Path(__file__).parents[2] / "config"
TINYSTORIES = CONFIG / "tinystories.yaml"
LARGE = ("tinystories", "cs336")


@pytest.fixture(scope="module", params=LARGE)
def large(request):
    """Return the estimate of a large study."""
    return Estimate(read_plan(CONFIG / f"{request.param}.yaml"), cores=2)


def test_equal_runs_count_once():
    plan = read_plan(CONFIG / "config.yaml")
    assert (len(plan.runs), len(distinct_runs(plan))) == (84, 75), "the ablations share three baselines"


def test_runs_with_another_factor_or_batch_size_are_distinct():
    sweep = {"corpus": "stories", "sweep": {"max_lr": [0.001, 0.01]}}
    batches = {"batch_size": [2, 8], "max_lr": {"best_of": "sweep", "scale": "sqrt_batch_size", "factor": [0.5, 1]}}
    runs = {"baseline": {}, "same": {}, "doubled": {"max_lr": {"best_of": "sweep", "factor": 2}}, "wide": {"d_ff": 288}}
    tuned = {"corpus": "stories", "sweep": {"weight_decay": [0.1]}, "runs": {name: {} for name in ("a", "b")}}
    plan = plan_with(
        {
            "sweep": sweep,
            "batches": {"corpus": "stories", "sweep": batches},
            "ablation": {
                "corpus": "stories",
                "runs": {name: {"max_lr": {"best_of": "sweep"}} | run for name, run in runs.items()},
            },
            "tuned": tuned | {"max_lr": {"best_of": "sweep"}, "seeds": [0, 1]},
        }
    )
    names = [(run.experiment, run.name, run.seed) for run in distinct_runs(plan)]
    assert names == [
        ("sweep", "max_lr=0.001", 0),
        ("sweep", "max_lr=0.01", 0),
        ("batches", "batch_size=2_max_lr=sqrt_batch_size-0.5", 0),
        ("batches", "batch_size=2_max_lr=sqrt_batch_size-1.0", 0),
        ("batches", "batch_size=8_max_lr=sqrt_batch_size-0.5", 0),
        ("ablation", "doubled", 0),
        ("ablation", "wide", 0),
        ("tuned", "a_weight_decay=0.1", 1),
    ]


def test_laptop_study_costs_ten_minutes():
    plan = read_plan(CONFIG / "config.yaml")
    cost = Estimate(plan, cores=2)
    assert cost.texts == []
    assert cost.disk_bytes == pytest.approx(326e6, rel=0.1)
    assert cost.memory["train"] == pytest.approx(465e6, rel=0.1)
    assert cost.cpu_seconds == pytest.approx(540, rel=0.2)


def test_more_cores_share_the_training_and_need_more_checkpoints():
    plan = read_plan(TINYSTORIES)
    single, quad = Estimate(plan, cores=1), Estimate(plan, cores=4)
    assert single.cpu_training_seconds == 4 * quad.cpu_training_seconds
    assert single.gpu_training_seconds == quad.gpu_training_seconds
    assert single.fixed_seconds > quad.fixed_seconds
    assert quad.disk["checkpoints"] == 4 * single.disk["checkpoints"]


def test_downloads_and_disk(large):
    assert format_downloads(large.texts) == "6.95 GB (14.5 GB as text)"
    texts = 2_227_753_162 + 22_502_601 + 11_920_511_059 + 289_998_753
    assert large.disk["downloads"] == large.disk["corpora"] == texts
    assert large.disk["tokens"] == pytest.approx(2 * ((541.2 + 5.5) + (2727 + 66.3)) * 1e6, rel=0.01)


def test_readme_has_the_estimates(large):
    (row,) = re.findall(
        rf"^\| `{large.plan.study.study}\.yaml`.*$", (CONFIG / "README.md").read_text(encoding="utf-8"), re.M
    )
    *_, fetched, cpu, gpu, disk, memory, _ = (cell.strip() for cell in row.split("|"))
    assert fetched == format_downloads(large.texts)
    assert cpu.split(" (")[0] == humanize_duration(large.cpu_seconds)
    assert gpu == humanize_duration(large.gpu_seconds)
    assert disk == format_bytes(large.disk_bytes)
    assert memory == ", ".join(f"{job} {format_bytes(large.memory[job])}" for job in ("train", "train_bpe"))


def test_readme_has_the_estimate_for_float32():
    study = yaml.safe_load((CONFIG / "cs336.yaml").read_text(encoding="utf-8"))
    study["training"]["precision"] = "float32"
    cost = Estimate(load_plan(study, "cs336"), cores=2)
    days = humanize_duration(cost.cpu_seconds).removesuffix(" days")
    assert f"({days} in float32)" in (CONFIG / "README.md").read_text(encoding="utf-8")


def test_command_prints_a_short_table(capsys):
    main(["estimate", str(TINYSTORIES), "--cores", "3"])
    output = capsys.readouterr().out
    assert output.startswith("The study tinystories, estimated:\ndownload ")
    for words in (
        "6.95 GB (14.5 GB as text)",
        "89, of which 79 differ",
        "time, 3 CPU cores",
        "time, one H100",
        "train_bpe",
    ):
        assert words in output
    assert max(map(len, output.splitlines())) < 160 and "float32" not in output
    main(["estimate", str(CONFIG / "cs336.yaml")])
    assert "slower than float32" in capsys.readouterr().out


# --- the notice


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return the plan of a study with texts to fetch, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return read_plan(TINYSTORIES)


def put(path, size):
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)


def disk_with(free):
    return lambda folder: SimpleNamespace(free=free)


def test_notice_has_downloads_disk_and_time(plan, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk_with(10**12))
    fetches, takes = download_notice(plan, "config/tinystories.yaml", cores=2).splitlines()
    disk = format_bytes(Estimate(plan, 2).disk_bytes)
    for number in ("6.95 GB (14.5 GB as text)", disk, "1 TB"):
        assert number in fetches
    assert "days on 2 CPU cores" in takes
    assert "`lmpipe estimate config/tinystories.yaml`" in takes


def test_notice_counts_missing_texts_only(plan):
    *stories, _, _ = plan.downloads()
    for path in stories:
        put(Path(path), 10)
    assert download_notice(plan, "x.yaml", 2).startswith("This study downloads 4.7 GB (12.2 GB as text) to resources/")


def test_no_notice_if_all_texts_exist(plan):
    for path in plan.downloads():
        put(Path(path), 10)
    assert download_notice(plan, "x.yaml", 2) is None
    assert download_notice(read_plan(CONFIG / "config.yaml"), "x.yaml", 2) is None


def test_notice_warns_of_a_small_disk(plan, monkeypatch):
    needed = Estimate(plan, 2).disk_bytes
    monkeypatch.setattr(shutil, "disk_usage", disk_with(round(needed - 3e9)))
    assert "about 3 GB are missing" in download_notice(plan, "x.yaml", 2).splitlines()[2]
    # What has been fetched takes none of the space that is left.
    put(Path(next(iter(plan.downloads()))), 2_227_753_162)
    assert "about 772 MB are missing" in download_notice(plan, "x.yaml", 2)


def test_notice_counts_texts_of_undeclared_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = copy.deepcopy(yaml.safe_load(TINYSTORIES.read_text(encoding="utf-8")))
    study["corpora"]["openwebtext"]["files"] = ["https://example.org/a.txt.gz", "https://example.org/b.txt"]
    notice = download_notice(load_plan(study, "x"), "x.yaml", 2)
    assert "2.36 GB (2.54 GB as text) and 2 texts of undeclared size, not counted here" in notice


def test_evaluation_takes_time():
    model = ModelConfig(vocab_size=300, context_length=8, d_model=8, d_ff=8, num_layers=1, num_heads=1)
    none, some, more = (RunCost(model, "float32", 4, 10, evaluated).seconds(CPU_CORE) for evaluated in (0, 120, 240))
    assert more - some == pytest.approx(some - none)
    assert some > none
