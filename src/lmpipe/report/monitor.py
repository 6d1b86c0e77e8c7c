"""`lmpipe status`: the runs of a study with their latest losses, and the remaining training time, in a terminal.

It reads files only and takes no locks.
"""

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmpipe.analysis.run_states import TERMINAL_STATES, RunState, Snapshot, StudyFiles, count_states
from lmpipe.analysis.runs import group_by
from lmpipe.errors import InputError
from lmpipe.io.formatting import format_number, format_seconds
from lmpipe.planning.cost_model import CPU_CORE, run_cost
from lmpipe.planning.estimate import equal_runs, humanize_duration
from lmpipe.planning.plan import Plan
from lmpipe.planning.session import find_study
from lmpipe.provenance.job_records import RECORD, JobRecord

REFRESH_SECONDS = 2.0
PRINTED_COLUMNS = 120  # if standard output is not a terminal
STYLES = {
    "failed": "red",
    "running": "cyan",
    "stopped": "yellow",
    "diverged": "magenta",
    "not_learning": "yellow",
    "done": "green",
    "waiting": "dim",
}
PADDING, STATE_WIDTH, LOSS_WIDTH = 2, 8, 10  # PADDING is to the left of each column
MIN_NAME_WIDTH, MIN_REMARK_WIDTH = 8, 12
LOSSES = ("val. loss", "train loss")  # nats per token
BAR_WIDTH = 16
SEPARATOR = " · "
# States whose runs are only counted, from none to almost all, until a live view fits into its terminal.
COLLAPSED_STATES = ((), ("waiting",), ("waiting", "done"), ("waiting", *TERMINAL_STATES))


# --- following a study -----------------------------------------------------------------------------------------------


def status(path: str | None, once: bool) -> None:
    """Show the state of a study, repeatedly until it is over or Ctrl-C is pressed.

    `path` is a results folder or a study file; None means the study in results/ that was started last. The state is
    printed a single time if `once` is set or standard output is not a terminal.
    """
    files = StudyFiles(find_study(path))
    snapshot = files.snapshot(time.time())
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else shutil.get_terminal_size((PRINTED_COLUMNS, 24)).columns
    console = Console(width=width, force_terminal=is_terminal, markup=False, highlight=False, emoji=False)
    if not once and is_terminal and not console.is_dumb_terminal:
        live = Live(console=console, screen=True, auto_refresh=False)
        with exit_on_signals(), live, suppress(KeyboardInterrupt):
            while is_active(snapshot):
                live.update(live_view(snapshot, console), refresh=True)
                time.sleep(REFRESH_SECONDS)
                if (study := find_study(path)).started != files.study.started:
                    files = StudyFiles(study)
                snapshot = files.snapshot(time.time())
    console.print(study_view(snapshot, console.width))


def is_active(snapshot: Snapshot) -> bool:
    """Return True if results are missing and Snakemake or a run that may make them is still running."""
    has_workers = snapshot.files.study.is_running is not False or any(run.state == "running" for run in snapshot.runs)
    return has_workers and not snapshot.has_results()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT, even if a shell set it to be ignored, and SystemExit on SIGTERM."""

    def leave(signal_number: int, frame: object) -> NoReturn:
        sys.exit(128 + signal_number)

    handlers = {signal.SIGTERM: leave, signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --- layout ----------------------------------------------------------------------------------------------------------


def live_view(snapshot: Snapshot, console: Console) -> Layout:
    """Return the view of a study cut to the height of the terminal; quiet runs are only counted if there are many."""
    height = console.height - 1
    for collapsed in COLLAPSED_STATES:
        view = study_view(snapshot, console.width, collapsed)
        if len(console.render_lines(view)) <= height:
            break
    layout = Layout()
    layout.split_column(Layout(view), Layout(Text("Ctrl-C leaves; the study continues."), size=1))
    return layout


def study_view(snapshot: Snapshot, width: int, collapsed: Sequence[str] = ()) -> Group:
    """Return the state of a study: totals, failures, and a table for each experiment.

    Runs in `collapsed` states are counted in the heading of their experiment, but have no row.
    """
    left = seconds_left(snapshot)
    title = [f"{snapshot.files.study.plan.study.study}: {len(snapshot.runs)} runs", *count_states(snapshot.runs)]
    title += [f"about {humanize_duration(left)} of training left"] if left else []
    stages = (f"{stage} {done}/{total}" for stage, (done, total) in snapshot.stages.items())
    parts: list[RenderableType] = [
        Text(SEPARATOR.join(title)),
        Text(session_line(snapshot)),
        Text(SEPARATOR.join(stages)),
        *(Text(f"failed: {job.log}: {job.line}", STYLES["failed"], overflow="fold") for job in snapshot.other_failures),
        Text(),
    ]
    names = run_names(snapshot.runs)
    name_width, losses = fit_columns(max(map(len, names.values()), default=0), width)
    parts.append(run_table([], names, name_width, losses, show_header=True))
    for experiment, runs in group_by(snapshot.runs, lambda run: run.run.experiment).items():
        visible = [run for run in runs if run.state not in collapsed]
        parts += [Text(f"{experiment}: {', '.join(count_states(runs))}"), run_table(visible, names, name_width, losses)]
    return Group(*parts)


def session_line(snapshot: Snapshot) -> str:
    """Return the state of the Snakemake process and the next step for the user."""
    study = snapshot.files.study
    if snapshot.has_results():
        return f"all is done: {study.paths.report}"
    if study.session is None:
        return f"not known to be running; results in {study.folder}"
    if study.is_running is None:
        return f"started {study.session.started_at} on {study.session.process.host}: {study.session.command}"
    if study.is_running:
        return f"snakemake is running (process {study.session.process.pid})"
    return f"snakemake is not running; to continue: {study.session.command}"


def run_names(runs: Sequence[RunState]) -> dict[str, str]:
    """Return the displayed name of each run by its folder, with the seed if its experiment has several."""
    seeds = Counter(experiment for experiment, _ in {(run.run.experiment, run.run.seed) for run in runs})
    return {
        run.run.folder: f"{run.run.name} seed{run.run.seed}" if seeds[run.run.experiment] > 1 else run.run.name
        for run in runs
    }


def fit_columns(name_width: int, width: int) -> tuple[int, Sequence[str]]:
    """Return the width of the names, and those of LOSSES that leave room for remarks in `width` cells.

    >>> fit_columns(30, 90), fit_columns(34, 80), fit_columns(60, 40)
    ((30, ('val. loss', 'train loss')), (34, ('val. loss',)), (25, ()))
    """
    fixed = STATE_WIDTH + 3 * PADDING
    num_losses = (width - name_width - fixed - MIN_REMARK_WIDTH) // (LOSS_WIDTH + PADDING)
    return max(MIN_NAME_WIDTH, min(name_width, width - fixed - 1)), LOSSES[: max(0, num_losses)]


def run_table(
    runs: Sequence[RunState], names: dict[str, str], name_width: int, losses: Sequence[str], show_header: bool = False
) -> Table:
    """Return a table of runs: name, state, `losses`, and the progress or the remark in the remaining width."""
    table = Table(box=None, show_header=show_header, header_style="", padding=(0, 0, 0, PADDING))
    table.expand = True
    table.add_column("", width=name_width, overflow="fold")
    table.add_column("", width=STATE_WIDTH, no_wrap=True, overflow="crop")
    for name in losses:
        table.add_column(name, width=LOSS_WIDTH, justify="right", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for run in runs:
        cells = map(loss_text, (run.validation_loss, run.training_loss)[: len(losses)])
        last = progress(run) if run.state == "running" else Text(run.remark)
        state = Text(run.state, STYLES[run.state])
        table.add_row(Text(names[run.run.folder]), state, *map(Text, cells), last)
    return table


def progress(run: RunState) -> Table:
    """Return the completed share, the remaining time and the speed of a run, and a bar."""
    left = "" if run.seconds_left is None else f"  {format_seconds(run.seconds_left)} left"
    speed = f"  {format_number(run.tokens_per_second)} tokens/s" if run.tokens_per_second else ""
    grid = Table.grid(padding=(0, PADDING, 0, 0))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(Text(f"{int(100 * run.share):>2} %{left}{speed}"), ProgressBar(1.0, run.share, width=BAR_WIDTH))
    return grid


def loss_text(loss: float | None) -> str:
    """Return a loss with three decimals, or in scientific notation from 1000 on.

    >>> loss_text(3.20981), loss_text(1439511.9), loss_text(None)
    ('3.210', '1.44e+06', '')
    """
    return "" if loss is None else f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2e}"


# --- remaining time --------------------------------------------------------------------------------------------------


def seconds_left(snapshot: Snapshot) -> float | None:
    """Return the estimated time until all runs are trained; None if all are, or no speed is measured yet.

    The estimate of `lmpipe estimate` for each distinct run is scaled by the measured speed of the runs so far, and
    divided by the number of runs that train at once.
    """
    plan, session = snapshot.files.study.plan, snapshot.files.study.session
    share_of = {run.run.folder: run.share for run in snapshot.runs}
    estimated = estimated_seconds(plan)
    left = sum(
        estimated[runs[0].folder] * (1 - max(share_of[run.folder] for run in runs)) for runs in distinct_work(plan)
    )
    factor = slowdown_factor(snapshot, estimated)
    num_parallel = sum(run.state == "running" for run in snapshot.runs) or (session.cores if session else None) or 1
    return left * factor / num_parallel if left and factor else None


@cache
def estimated_seconds(plan: Plan) -> dict[str, float]:
    """Return the estimated training time of each run on a CPU core, by the run's folder."""
    return {run.folder: run_cost(plan, run).seconds(CPU_CORE) for run in plan.runs}


distinct_work = cache(equal_runs)


def slowdown_factor(snapshot: Snapshot, estimated: dict[str, float]) -> float | None:
    """Return measured over estimated training time of the runs trained so far or running; None if there are none."""
    measured = expected = 0.0
    for run in snapshot.runs:
        folder = run.run.folder
        record = snapshot.files.study.folder / folder / RECORD
        if run.state in TERMINAL_STATES and (seconds := snapshot.files.read_cached(record, training_seconds)):
            measured += seconds
            expected += estimated[folder] * run.step / run.planned_steps
        elif run.seconds_left:
            measured += run.seconds_left
            expected += estimated[folder] * (1 - run.share)
    return measured / expected if expected else None


def training_seconds(path: Path) -> float | None:
    """Return the wall time of a training job by its record; None for a copy or an unreadable record."""
    try:
        record = JobRecord.read(path)
    except InputError:
        return None
    return None if record.cache_hit else record.wall_seconds
