"""Following a study in a terminal: what its runs are doing, with their latest losses and the time that is left.

Only files are read, and nothing is locked, so that a study never notices who looks on.
"""

import os
import shutil
import signal
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

from lmpipe.analysis.run_states import OVER, Look, RunState, StudyFiles, states_in
from lmpipe.errors import InputError
from lmpipe.io.formatting import number, seconds_text
from lmpipe.planning.cost_model import CPU_CORE, run_cost
from lmpipe.planning.estimate import equal_runs, roughly
from lmpipe.planning.plan import Plan
from lmpipe.planning.session import find_study
from lmpipe.provenance.job_records import RECORD
from lmpipe.study.documents import Amount, keys, read_shape

REFRESH_SECONDS = 2.0
# Where standard output is no terminal.
PRINTED_COLUMNS, PRINTED_LINES = 120, 24
TRAINING_RECORD = keys(copied_from_store=bool, wall_seconds=Amount)
COLOURS = {"failed": 31, "running": 36, "stopped": 33, "diverged": 35, "stuck": 33, "done": 32, "waiting": 2}
INDENT = "  "
BAR_CELLS = 10
STATE_CELLS = 9
MOST_NAME_CELLS = 44
# Cells of each column beside names and states, and their headings; losses are in nats per token.
COLUMNS = {
    "validation": (11, "val. loss"),
    "training": (11, "train loss"),
    "bar": (BAR_CELLS + 8, "progress"),
    "left": (12, "left"),
    "speed": (10, "tokens/s"),
}
# What a line of a run holds, and how many cells its name: the first of these that a terminal has room for.
LAYOUTS = (
    (MOST_NAME_CELLS, ("validation", "training", "bar", "left", "speed")),
    (MOST_NAME_CELLS, ("validation", "training", "bar", "left")),
    (MOST_NAME_CELLS, ("validation", "training", "left")),
    (MOST_NAME_CELLS, ("validation", "left")),
    (MOST_NAME_CELLS, ("validation",)),
    (30, ("validation",)),
    (16, ("validation",)),
    (16, ()),
)
ALTERNATE_SCREEN, USUAL_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


# --- following -------------------------------------------------------------------------------------------------------


def status(path: str | None, once: bool) -> None:
    """Show a study's state, again and again until it is over or the user leaves; `once` shows it a single time.

    `path` is a results folder or a study file; None stands for the study in results/ that was begun last. Where
    standard output is no terminal, the state is printed once.
    """
    files = StudyFiles(find_study(path))
    look = files.look(time.time())
    if not once and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with whole_terminal():
            while goes_on(look):
                paint(look, look_of_terminal())
                time.sleep(REFRESH_SECONDS)
                if (now := find_study(path)).since != files.study.since:
                    files = StudyFiles(now)
                look = files.look(time.time())
    shown = look_of_terminal()
    print("\n".join(shown.fitted(line).rstrip() for line in screen(look, shown)))


def goes_on(look: Look) -> bool:
    """Whether there is more to see: unfinished results, and a call of the workflow, or a run, that may make them."""
    has_workers = look.files.study.runs_now is not False or any(run.state == "running" for run in look.runs)
    return has_workers and not look.is_finished


@contextmanager
def whole_terminal() -> Iterator[None]:
    """Take the whole terminal for a while; what was there before comes back, however this ends.

    Ctrl-C, the usual way to leave, ends the block and is no error, also where a shell that started this in the
    background told it to ignore it.
    """

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    handlers = {signal.SIGTERM: leave, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        sys.stdout.write(ALTERNATE_SCREEN)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(USUAL_SCREEN)
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)


def paint(look: Look, shown: "Shown") -> None:
    """Write the screen over the one before, without a moment in which it is empty."""
    lines = [*screen(look, shown, shown.lines - 1), "Ctrl-C leaves; the study goes on."]
    sys.stdout.write(HOME + "\n".join(shown.fitted(line) + END_OF_LINE for line in lines) + REST_OF_SCREEN)
    sys.stdout.flush()


# --- what a terminal can show ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What can be shown: columns and lines, and whether colours and characters beyond ASCII."""

    columns: int
    lines: int
    has_colour: bool
    has_unicode: bool

    @property
    def gap(self) -> str:
        """What stands between two facts of a line."""
        return " · " if self.has_unicode else " | "

    def coloured(self, text: str, state: str) -> str:
        """A text in the colour of a state."""
        return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if self.has_colour else text

    def bar(self, share: float) -> str:
        """A share of one as a bar."""
        full = int(share * BAR_CELLS)
        done, left = ("█", "░") if self.has_unicode else ("#", "-")
        return done * full + left * (BAR_CELLS - full)

    def fitted(self, line: str) -> str:
        """As much of a line as one line of the terminal holds; its colours take no room."""
        kept, room, is_cut, pieces = [], self.columns, False, line.split("\x1b[")
        for index, piece in enumerate(pieces):
            code, _, text = piece.partition("m") if index else ("", "", piece)
            kept.append(f"\x1b[{code}m" if index else "")
            for character in text if self.has_unicode else text.encode("ascii", "replace").decode():
                room -= cells(character)
                is_cut = is_cut or room < 0
                kept.append("" if is_cut else character)
        return "".join(kept)


def cells(character: str) -> int:
    """How many cells of a terminal a character takes.

    >>> cells("a"), cells("漢"), cells("\N{COMBINING ACUTE ACCENT}")
    (1, 2, 0)
    """
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def look_of_terminal() -> Shown:
    """What standard output can show."""
    is_terminal = sys.stdout.isatty()
    columns, lines = shutil.get_terminal_size((PRINTED_COLUMNS, PRINTED_LINES))
    return Shown(
        # A character in the last column would be lost where the line's end is erased.
        max(1, columns - is_terminal),
        lines,
        is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "utf" in (sys.stdout.encoding or "").lower(),
    )


# --- the screen ------------------------------------------------------------------------------------------------------


def screen(look: Look, shown: Shown, most_lines: int | None = None) -> list[str]:
    """The lines that show a study; where they are more than `most_lines`, what asks for least attention is left out."""
    stages = [f"{stage} {done}/{total}" for stage, (done, total) in look.stages.items()]
    head = [
        *packed(title(look), shown),
        call_line(look),
        *packed(stages, shown),
        *(shown.coloured(f"failed: {job.log}: {job.line}", "failed") for job in look.other_failures),
        "",
    ]
    table = Table(shown, look.runs)
    experiments = {
        name: [run for run in look.runs if run.run.experiment == name] for name in look.files.study.plan.runs_of
    }
    room = None if most_lines is None else most_lines - len(head) - 1
    return [*head, table.header(), *body(experiments, table, room)][:most_lines]


def title(look: Look) -> list[str]:
    """The study's name with its runs, how many of them are in which state, and how long training may take."""
    left = seconds_left(look)
    return [
        f"{look.files.study.plan.study.study}: {len(look.runs)} runs",
        *(f"{count} {state}" for state, count in states_in(look.runs)),
        *([f"about {roughly(left)} of training left"] if left else []),
    ]


def call_line(look: Look) -> str:
    """What is known of the call of the workflow, and what to do next."""
    study = look.files.study
    if look.is_finished:
        return f"all is done: {study.folder / 'report.html'}"
    if study.call is None:
        return f"not known to be running; results in {study.folder}"
    if study.runs_now is None:
        return f"begun {study.call['begun']} on {study.call['process']['host']}: {study.call['command']}"
    if study.runs_now:
        return f"snakemake is running (process {study.call['process']['id']})"
    return f"snakemake is not running; this goes on: {study.call['command']}"


def packed(parts: Sequence[str], shown: Shown) -> list[str]:
    """Facts in as few lines as hold them."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(shown.gap) + len(part) <= shown.columns:
            lines[-1] += shown.gap + part
        else:
            lines.append(part)
    return lines


def body(experiments: Mapping[str, Sequence[RunState]], table: "Table", room: int | None) -> list[str]:
    """The lines of all experiments, in so many at most: whole, or with what is quiet only counted, or cut."""
    for hidden in ((), ("waiting",), ("waiting", "done"), ("waiting", *OVER)):
        lines = [line for name, runs in experiments.items() for line in table.experiment(name, runs, hidden)]
        if room is None or len(lines) <= room:
            return lines
    cut = max(0, room - 1)
    return [*lines[:cut], f"{len(lines) - cut} lines more: lmpipe status --once"]


class Table:
    """Lays out the lines of runs in the columns that there is room for."""

    def __init__(self, shown: Shown, runs: Sequence[RunState]):
        self.shown = shown
        seeds = {(run.run.experiment, run.run.seed) for run in runs}
        self.with_seeds = {name for name, count in Counter(name for name, _ in seeds).items() if count > 1}
        longest = max((len(self.name(run)) for run in runs), default=0) + len(INDENT)
        for most, columns in LAYOUTS:
            self.name_cells, self.columns = min(longest, most), columns
            if self.name_cells + 1 + STATE_CELLS + sum(COLUMNS[name][0] for name in columns) <= shown.columns:
                break

    def header(self) -> str:
        """The names of the columns."""
        heads = (f"{COLUMNS[name][1]:>{COLUMNS[name][0]}}" for name in self.columns)
        return " " * (self.name_cells + 1 + STATE_CELLS) + "".join(heads)

    def name(self, run: RunState) -> str:
        """A run's name, with its seed where its experiment has several."""
        name = run.run.name
        return f"{name} seed{run.run.seed}" if run.run.experiment in self.with_seeds else name

    def experiment(self, name: str, runs: Sequence[RunState], hidden: Sequence[str]) -> list[str]:
        """The heading of an experiment, and a line for each run; runs in hidden states are only counted."""
        counts = ", ".join(f"{count} {state}" for state, count in states_in(runs))
        return [f"{name}: {counts}", *(self.row(run) for run in runs if run.state not in hidden)]

    def row(self, run: RunState) -> str:
        """The line of a run."""
        name = middle_cut(self.name(run), self.name_cells - len(INDENT))
        state = self.shown.coloured(f"{run.state:<{STATE_CELLS}}", run.state)
        told = "".join(f"{self.text(run, column):>{COLUMNS[column][0]}}" for column in self.columns).rstrip()
        remark = f"  {run.remark}" if run.remark else ""
        return f"{INDENT}{name:<{self.name_cells - len(INDENT)}} {state}{told}{remark}"

    def text(self, run: RunState, column: str) -> str:
        """A cell; empty where nothing is known."""
        match column:
            case "validation":
                return loss_text(run.validation_loss)
            case "training":
                return loss_text(run.training_loss)
            case _ if run.state != "running":
                return ""
            case "bar":
                return f"{self.shown.bar(run.share)} {int(100 * run.share):>3} %"
            case "left":
                return seconds_text(run.seconds_left) if run.seconds_left is not None else ""
            case _:
                return number(run.tokens_per_second) if run.tokens_per_second else ""


def loss_text(loss: float | None) -> str:
    """A loss with three decimals; one that has left every scale with three digits.

    >>> loss_text(3.20981), loss_text(1439511.9), loss_text(None)
    ('3.210', '1.44e+06', '')
    """
    return "" if loss is None else f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2e}"


def middle_cut(text: str, most: int) -> str:
    """A text without its middle, where it is too long: names of runs differ at both ends.

    >>> middle_cut("batch_size=4_max_lr=sqrt_rule-0.5", 20)
    'batch_siz...rule-0.5'
    """
    if len(text) <= most:
        return text
    kept = max(0, most - 3)
    return text[: kept - kept // 2] + "..."[:most] + text[len(text) - kept // 2 :]


# --- the time that is left -------------------------------------------------------------------------------------------


def seconds_left(look: Look) -> float | None:
    """How long training will take, at the speed that was measured; None where all is done, or nothing is measured yet.

    Each distinct run is reckoned as `lmpipe estimate` does; how much longer or shorter the runs so far took stretches
    it, and as many train at once as do now.
    """
    plan = look.files.study.plan
    share_of = {run.run.folder: run.share for run in look.runs}
    estimated = estimated_seconds(plan)
    left = sum(
        estimated[runs[0].folder] * (1 - max(share_of[run.folder] for run in runs)) for runs in distinct_work(plan)
    )
    stretch = measured_stretch(look, estimated)
    at_once = sum(run.state == "running" for run in look.runs) or (look.files.study.call or {}).get("cores") or 1
    return left * stretch / at_once if left and stretch else None


@cache
def estimated_seconds(plan: Plan) -> dict[str, float]:
    """What each run is estimated to take on a core like those measured, by its folder."""
    return {run.folder: run_cost(plan, run).seconds(CPU_CORE) for run in plan.runs}


distinct_work = cache(equal_runs)


def measured_stretch(look: Look, estimated: dict[str, float]) -> float | None:
    """How many times longer than estimated the runs take that were trained or are under way; None without any."""
    taken = expected = 0.0
    for run in look.runs:
        folder = run.run.folder
        record = look.files.study.folder / folder / RECORD
        if run.state in OVER and (seconds := look.files.unless_known(record, training_seconds)):
            taken += seconds
            expected += estimated[folder] * run.step / run.planned_steps
        elif run.seconds_left:
            taken += run.seconds_left
            expected += estimated[folder] * (1 - run.share)
    return taken / expected if expected else None


def training_seconds(path: Path) -> float | None:
    """How long the job of a record took, where it trained; None for a copy, or a record that cannot be read."""
    try:
        record = read_shape(path, TRAINING_RECORD)
    except InputError:
        return None
    return None if record["copied_from_store"] else record["wall_seconds"]
