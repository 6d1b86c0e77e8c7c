import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from itertools import product

import pytest

from lmpipe.analysis.run_states import StudyFiles
from lmpipe.cli.main import main
from lmpipe.io.process_identity import this_process
from lmpipe.planning.cost_model import CPU_CORE, run_cost
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import begin, find_study
from lmpipe.report.monitor import LAYOUTS, Shown, cells, goes_on, screen, seconds_left
from lmpipe.training.progress_file import PROGRESS_FILE
from tests.support.fake_results import fabricate_study

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UNDER_WAY = "no_pos_emb/nope/seed0"
LONG = "swiglu_ablation/silu/seed1"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A made-up study that this process has begun: a run under way, one that failed, one not begun, the others over."""
    monkeypatch.chdir(tmp_path)
    results = fabricate_study(tmp_path / "results/fabricated")
    begin(load_plan(results.study, "the fabricated study"), 2, ["--cores", "2"])
    runs = results.folder / "runs"
    store = results.folder / "store/0123456789abcdef0123"
    store.mkdir(parents=True)
    told = {
        "config": json.loads((runs / UNDER_WAY / "config.json").read_text(encoding="utf-8")),
        "planned_steps": 200,
        "process": this_process(),
        "step": 50,
        "training_loss": 3.25,
        "best_validation_loss": None,
        "tokens_per_second": 16 * 128.0,
        "updated": time.time(),
    }
    (store / PROGRESS_FILE).write_text(json.dumps(told), encoding="utf-8")
    log = tmp_path / "logs/fabricated/train" / f"{LONG}.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"Traceback (most recent call last):\n  x\nOSError: 漢字 {'very ' * 40}long\n", encoding="utf-8")
    for run in (UNDER_WAY, LONG, "vocabulary/vocab_size=512/seed0"):
        (runs / run / "summary.json").unlink()
    return find_study("results/fabricated")


def look(study):
    return StudyFiles(study).look(time.time())


def shown(columns=100, lines=200, *, has_colour=False, has_unicode=True):
    return Shown(columns, lines, has_colour, has_unicode)


def width(line):
    return sum(map(cells, line))


def row_of(lines, words):
    return next(line for line in lines if line.split()[: len(words.split())] == words.split())


def test_the_screen_says_what_every_run_does(study):
    lines = screen(look(study), shown(140))
    plan = study.plan
    assert lines[0].startswith(f"fabricated: {len(plan.runs)} runs · 1 failed · 1 running · 2 diverged · ")
    assert f"snakemake is running (process {os.getpid()})" in lines
    assert row_of(lines, "nope running 3.250").endswith("██░░░░░░░░  25 %  2 min 30 s     2,048")
    assert row_of(lines, "max_lr=3.0 diverged").endswith("at step 66")
    assert "OSError: 漢字 very" in row_of(lines, "silu seed1 failed")
    assert row_of(lines, "vocab_size=512 seed0 waiting")
    rows = [line for line in lines if line.startswith("  ") and line.strip() and "val. loss" not in line]
    assert len(rows) == len(plan.runs), "a line for each"


def test_no_line_is_wider_and_no_screen_higher_than_the_terminal(study):
    now = look(study)
    for columns, lines in product([1, 9, 20, 40, 59, 79, 80, 100, 139, 200], [1, 4, 24, 50, 200]):
        terminal = shown(columns, lines, has_colour=True)
        painted = screen(now, terminal, lines)
        assert len(painted) <= lines
        for line in map(terminal.fitted, painted):
            assert width(ESCAPES.sub("", line)) <= columns
            assert len(re.findall(r"\x1b\[[1-9]\d?m", line)) == line.count("\x1b[0m"), "every colour ends"


def test_a_terminal_of_usual_width_shows_names_in_full(study):
    for columns in (80, 100, 140):
        told = "\n".join(screen(look(study), shown(columns)))
        assert "batch_size=64_max_lr=sqrt_rule-0.5" in told
        assert "val. loss" in told


def test_layouts_leave_out_more_and_more():
    sizes = [(most, len(columns)) for most, columns in LAYOUTS]
    assert sizes == sorted(sizes, reverse=True)


def test_a_low_terminal_keeps_what_asks_for_attention(study):
    told = "\n".join(screen(look(study), shown(100), 22))
    assert "nope" in told
    assert "silu seed1" in told
    assert "max_lr=0.001 " not in told, "a run that is done"
    assert "learning_rate: 1 diverged, 5 done" in told, "but counted"


def test_without_unicode_all_is_ascii(study):
    terminal = shown(140, has_unicode=False)
    lines = [terminal.fitted(line) for line in screen(look(study), terminal)]
    assert all(line.isascii() for line in lines)
    assert "##--------  25 %" in row_of(lines, "nope running")
    assert " | 1 running | " in lines[0]


def test_colours_take_no_room_and_are_left_out_on_wish(study, monkeypatch, capsys):
    coloured = [shown(60, has_colour=True).fitted(line) for line in screen(look(study), shown(60, has_colour=True))]
    plain = [shown(60).fitted(line) for line in screen(look(study), shown(60))]
    assert [ESCAPES.sub("", line) for line in coloured] == plain
    assert coloured != plain
    main(["status", "results/fabricated"])
    assert "\x1b" not in capsys.readouterr().out, "no terminal, no escapes"


def test_a_terminal_is_never_told_to_do_anything_by_a_log(study):
    log = study.logs / "make_corpus/docs.log"
    log.parent.mkdir()
    log.write_bytes(b"lmpipe make-corpus: \x1b[2J\x07\xff\x9b31m no; text\n")
    lines = [shown().fitted(line) for line in screen(look(study), shown())]
    assert row_of(lines, "failed: make_corpus/docs.log: lmpipe make-corpus:")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join(lines))


def test_time_left_is_the_work_that_is_left_at_the_measured_speed(study):
    """The run under way is the only one measured: 150 steps in 150 seconds. One run trains at once."""
    plan = study.plan
    cost = {run.folder: run_cost(plan, run).seconds(CPU_CORE) for run in plan.runs}
    slower = 150 / (0.75 * cost[f"runs/{UNDER_WAY}"])
    left = 0.75 * cost[f"runs/{UNDER_WAY}"] + cost[f"runs/{LONG}"] + cost["runs/vocabulary/vocab_size=512/seed0"]
    assert {f"runs/{UNDER_WAY}", f"runs/{LONG}"} <= {run.folder for run in distinct_runs(plan)}
    assert seconds_left(look(study)) == pytest.approx(left * slower)


def test_records_of_finished_runs_count_as_measured_and_copies_do_not(study):
    run = study.plan.runs[0]
    cost = run_cost(study.plan, run).seconds(CPU_CORE)
    before = seconds_left(look(study))
    record = study.folder / run.folder / "provenance.json"
    record.write_text(json.dumps({"copied_from_store": True, "wall_seconds": 1e9}), encoding="utf-8")
    assert seconds_left(look(study)) == before
    record.write_text(json.dumps({"copied_from_store": False, "wall_seconds": 1e6 * cost}), encoding="utf-8")
    assert seconds_left(look(study)) > 1000 * before


def test_following_ends_when_nobody_works_any_more(study):
    assert goes_on(look(study))
    path = study.folder / "study.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"process": content["process"] | {"started": 1}}), encoding="utf-8")
    assert goes_on(look(find_study("results/fabricated"))), "a run is still under way"
    (study.folder / "store/0123456789abcdef0123" / PROGRESS_FILE).unlink()
    ended = look(find_study("results/fabricated"))
    assert not goes_on(ended)
    assert "snakemake is not running; this goes on: snakemake --cores 2" in screen(ended, shown())


class Terminal:
    """A terminal of a size in which a command runs; the command does not outlive the block."""

    def __init__(self, command, columns, lines, **variables):
        self.own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **variables}
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
        )
        os.close(other)
        self.told = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def read_until(self, part, after=0, seconds=30):
        """Read on until it has told a part, beyond so many bytes."""
        deadline = time.monotonic() + seconds
        while part not in self.told[after:]:
            assert time.monotonic() < deadline, self.told[-2000:]
            self.read()

    def read(self):
        if select.select([self.own], [], [], 0.1)[0]:
            try:
                self.told += os.read(self.own, 65536)
            except OSError:
                return False
        return True

    def end(self, number):
        """Send a signal; the exit code, after all has been read."""
        self.process.send_signal(number)
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.told[-2000:]
            self.read()
        while select.select([self.own], [], [], 0)[0] and self.read():
            pass
        os.close(self.own)
        return self.process.returncode


def follow(*arguments, columns=80, lines=24, **variables):
    return Terminal([sys.executable, "-m", "lmpipe.cli.main", "status", *arguments], columns, lines, **variables)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_in_a_terminal_it_refreshes_in_place_until_it_is_left(study, number, code):
    with follow() as terminal:
        terminal.read_until(b"Ctrl-C leaves")
        # A run ends in the meantime.
        path = study.folder / "runs" / LONG
        path.joinpath("summary.json").write_bytes((path.parent / "seed0/summary.json").read_bytes())
        for _ in range(2):
            terminal.read_until(b"\x1b[J", after=len(terminal.told))
        assert terminal.end(number) == code
    told = terminal.told.decode()
    assert told.count("\x1b[?1049h") == told.count("\x1b[?1049l") == 1
    assert told.count("\x1b[?25l") == told.count("\x1b[?25h") == 1, "the cursor comes back"
    frames = told.partition("\x1b[?1049l")[0].split("\x1b[H")[1:]
    assert "silu seed1" in frames[0] and " 1 failed" in frames[0]
    assert " 1 failed" not in frames[-1]
    for frame in frames:
        lines = ESCAPES.sub("", frame).split("\r\n")
        assert len(lines) <= 24
        assert all(width(line) < 80 for line in lines)
    after = told.partition("\x1b[?1049l")[2]
    assert ("fabricated: " in after) == (number == signal.SIGINT), "what was seen last stays on the screen"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}, {}])
def test_once_in_a_terminal(study, variables):
    with follow("--once", "results/fabricated", columns=100, **variables) as terminal:
        terminal.process.wait(30)
        terminal.end(0)
    told = terminal.told.decode()
    assert "nope" in told
    assert "\x1b[?1049h" not in told
    assert ("\x1b[36m" in told) == (not variables or "PYTHONIOENCODING" in variables)
    assert told.isascii() == ("PYTHONIOENCODING" in variables)


def test_looking_on_changes_no_file_and_holds_no_lock(study, capsys):
    lock = study.folder / "store/0123456789abcdef0123/lock"
    lock.touch()
    files = {path: path.stat().st_mtime_ns for path in study.folder.parent.parent.rglob("*")}
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments) if event in ("fcntl.flock",) else None)
    main(["status"])
    assert "nope" in capsys.readouterr().out
    assert opened == []
    assert {path: path.stat().st_mtime_ns for path in study.folder.parent.parent.rglob("*")} == files
