import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import sys
import termios
import threading
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from lmpipe.analysis.run_states import StudyFiles
from lmpipe.cli.main import main
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.planning.cost_model import CPU_CORE, run_cost
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import find_study, start_session
from lmpipe.report import monitor
from lmpipe.report.monitor import is_active, live_view, seconds_left, study_view
from lmpipe.training.progress import PROGRESS
from tests.support.fake_results import write_record

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UNDER_WAY = "no_pos_emb/nope/seed0"
LONG = "swiglu_ablation/silu/seed1"


@pytest.fixture
def study(fabricated, tmp_path, monkeypatch):
    """Return a made-up study of this process: one run trains, one failed, one has not begun, the rest ended."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/fabricated"
    shutil.copytree(fabricated.folder, folder)
    start_session(load_plan(fabricated.study, "the fabricated study"), 2, ["--cores", "2"])
    runs = folder / "runs"
    store = folder / "store/0123456789abcdef0123"
    store.mkdir(parents=True)
    progress = {
        "config": json.loads((runs / UNDER_WAY / "config.json").read_text(encoding="utf-8")),
        "planned_steps": 200,
        "process": ProcessIdentity.current().model_dump(),
        "step": 50,
        "training_loss": 3.25,
        "best_validation_loss": None,
        "tokens_per_second": 16 * 128.0,
        "updated_at": time.time(),
    }
    (store / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    log = tmp_path / "logs/fabricated/train" / f"{LONG}.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"Traceback (most recent call last):\n  x\nOSError: 漢字 {'very ' * 40}long\n", encoding="utf-8")
    for run in (UNDER_WAY, LONG, "vocabulary/vocab_size=512/seed0"):
        (runs / run / "summary.json").unlink()
    return find_study("results/fabricated")


def snapshot(study):
    return StudyFiles(study).snapshot(time.time())


def printed(study, columns=140):
    """Return the lines of the view of a study at a width."""
    console = Console(width=columns, color_system=None)
    with console.capture() as capture:
        console.print(study_view(snapshot(study), columns))
    return capture.get().splitlines()


def row_of(lines, words):
    return next(line.rstrip() for line in lines if line.split()[: len(words.split())] == words.split())


def test_view_shows_each_run(study):
    lines = printed(study)
    plan = study.plan
    assert lines[0].startswith(f"fabricated: {len(plan.runs)} runs · 1 failed · 1 running · 2 diverged · ")
    assert f"snakemake is running (process {os.getpid()})" in map(str.rstrip, lines)
    assert "25 %  2 min 30 s left  2,048 tokens/s" in row_of(lines, "nope running 3.250")
    assert row_of(lines, "max_lr=3.0 diverged").endswith("at step 66")
    assert "OSError: 漢字 very" in row_of(lines, "silu seed1 failed")
    assert row_of(lines, "vocab_size=512 seed0 waiting")
    assert len([line for line in lines if line.startswith("  ") and "val. loss" not in line]) == len(plan.runs)
    lines = printed(study, 80)
    assert row_of(lines, "batch_size=64_max_lr=sqrt_batch_size-0.5 done 2.474")
    assert all(cell_len(line) <= 80 for line in lines)


def test_live_view_fits_the_terminal(study):
    current = snapshot(study)
    for columns, height in itertools.product([20, 59, 200], [4, 60]):
        console = Console(width=columns, height=height, color_system="standard", force_terminal=True)
        lines = console.render_lines(live_view(current, console), console.options.update(height=height))
        assert len(lines) == height
        assert all(sum(segment.cell_length for segment in line) <= columns for line in lines)
    console = Console(width=100, height=23, color_system=None)
    with console.capture() as capture:
        console.print(live_view(current, console))
    text = capture.get()
    assert "nope" in text and "silu seed1" in text and "Ctrl-C" in text
    assert "max_lr=0.001 " not in text and "learning_rate: 1 diverged, 5 done" in text, "finished runs are counted"


def test_control_characters_of_a_log_never_reach_the_terminal(study):
    log = study.logs / "make_corpus/docs.log"
    log.parent.mkdir()
    log.write_bytes(b"lmpipe make-corpus: \x1b[2J\x07\xff\x9b31m no; text\n")
    lines = printed(study)
    assert row_of(lines, "failed: make_corpus/docs.log: lmpipe make-corpus:")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))


def test_time_left_is_the_remaining_work_at_the_measured_speed(study):
    """Only one run is measured: 150 steps in 150 seconds. One run trains at a time."""
    plan = study.plan
    cost = {run.folder: run_cost(plan, run).seconds(CPU_CORE) for run in plan.runs}
    slower = 150 / (0.75 * cost[f"runs/{UNDER_WAY}"])
    left = 0.75 * cost[f"runs/{UNDER_WAY}"] + cost[f"runs/{LONG}"] + cost["runs/vocabulary/vocab_size=512/seed0"]
    assert {f"runs/{UNDER_WAY}", f"runs/{LONG}"} <= {run.folder for run in distinct_runs(plan)}
    assert seconds_left(snapshot(study)) == pytest.approx(left * slower)


def test_records_of_trained_runs_are_measurements_and_copies_are_not(study):
    run = study.plan.runs[0]
    cost = run_cost(study.plan, run).seconds(CPU_CORE)
    before = seconds_left(snapshot(study))
    write_record(study.folder, run.folder, "train", [], ["summary.json"], cache_hit=True, wall_seconds=1e9)
    assert seconds_left(snapshot(study)) == before
    write_record(study.folder, run.folder, "train", [], ["summary.json"], cache_hit=False, wall_seconds=1e6 * cost)
    assert seconds_left(snapshot(study)) > 1000 * before


def test_following_ends_without_a_running_process(study):
    assert is_active(snapshot(study))
    path = study.folder / "session.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"process": content["process"] | {"create_time": 1.0}}), encoding="utf-8")
    assert is_active(snapshot(find_study("results/fabricated"))), "a run is still under way"
    (study.folder / "store/0123456789abcdef0123" / PROGRESS).unlink()
    ended = snapshot(find_study("results/fabricated"))
    assert not is_active(ended)
    assert row_of(printed(find_study("results/fabricated")), "snakemake is not running;").endswith(
        "snakemake --cores 2"
    )


class Terminal:
    """A process in a pseudo-terminal that runs `lmpipe status`; it is forked, which imports nothing again."""

    def __init__(self, columns=80, lines=24):
        self.pid, self.own = pty.fork()
        if self.pid == 0:
            os.closerange(3, 256)
            sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            code = 1
            try:
                main(["status"])
                code = 0
            except SystemExit as ended:
                code = ended.code
            finally:
                sys.stdout.flush()
                os._exit(code)
        self.output = b""

    def read(self):
        """Read what there is; return False at the end."""
        if select.select([self.own], [], [], 10)[0]:
            with contextlib.suppress(OSError):
                part = os.read(self.own, 65536)
                self.output += part
                return bool(part)
        return False

    def read_until(self, part, after=0):
        """Read until `part` appears after the first `after` bytes."""
        while part not in self.output[after:]:
            assert self.read(), self.output[-2000:]

    def end(self, number):
        """Send a signal and read the rest; return the exit code."""
        os.kill(self.pid, number)
        while self.read():
            pass
        os.close(self.own)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal_variables(monkeypatch):
    """Let the environment be that of a plain terminal, which knows its size itself."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(monitor, "REFRESH_SECONDS", 0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
@pytest.mark.usefixtures("terminal_variables")
def test_terminal_is_refreshed_in_place_and_restored(study, number, code):
    terminal = Terminal()
    terminal.read_until(b"Ctrl-C leaves")
    # A run ends in the meantime.
    path = study.folder / "runs" / LONG
    path.joinpath("summary.json").write_bytes((path.parent / "seed0/summary.json").read_bytes())
    for _ in range(2):
        terminal.read_until(b"Ctrl-C leaves", after=len(terminal.output))
    assert terminal.end(number) == code
    text = terminal.output.decode()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor is visible again"
    frames = [frame for frame in text.partition("\x1b[?1049l")[0].split("\x1b[H") if "Ctrl-C" in frame]
    assert "silu seed1" in frames[0] and " 1 failed" in frames[0]
    assert " 1 failed" not in frames[-1]
    for frame in frames:
        lines = ESCAPES.sub("", frame).split("\r\n")
        assert len(lines) <= 24
        assert all(cell_len(line) <= 80 for line in lines)
    after = text.partition("\x1b[?1049l")[2]
    assert ("fabricated: " in after) == (number == signal.SIGINT), "the last view stays on the screen"


@pytest.mark.parametrize(
    ("variable", "encoding"), [("NO_COLOR=1", "utf-8"), ("TERM=dumb", "utf-8"), ("TERM=xterm", "ascii")]
)
@pytest.mark.usefixtures("study", "terminal_variables")
def test_once_in_a_terminal(variable, encoding, monkeypatch):
    monkeypatch.setenv(*variable.split("="))
    own, other = pty.openpty()
    with open(other, "w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        reader = threading.Thread(target=lambda: output.extend(iter(lambda: read_some(own), b"")))
        output: list[bytes] = []
        reader.start()
        main(["status", "--once", "results/fabricated"])
    reader.join()
    os.close(own)
    text = b"".join(output).decode()
    assert "nope" in text
    assert "\x1b[?1049h" not in text
    assert ("\x1b[36m" in text) == (variable == "TERM=xterm")
    assert text.isascii() == (encoding == "ascii")


def read_some(descriptor):
    """Return bytes from a pseudo-terminal; none after its other side is closed."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_status_changes_no_file_takes_no_lock_and_prints_no_escapes(study, capsys):
    files = {path: path.stat().st_mtime_ns for path in study.folder.parent.parent.rglob("*")}
    locks = []
    sys.addaudithook(lambda event, arguments: locks.append(arguments) if event == "fcntl.flock" else None)
    main(["status"])
    printed_text = capsys.readouterr().out
    assert "nope" in printed_text
    assert "\x1b" not in printed_text, "not a terminal"
    assert locks == []
    assert {path: path.stat().st_mtime_ns for path in study.folder.parent.parent.rglob("*")} == files
