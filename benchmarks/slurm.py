"""A real SLURM on this machine, to test against: `python -m benchmarks.slurm start`, `status` or `stop`.

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. The daemons run without systemd, listen
on 127.0.0.1 only and write to one folder. /etc/slurm/slurm.conf becomes a link into it, because not every child of a
job passes SLURM_CONF on. A machine with another SLURM is left alone. The nodes may claim more CPUs, memory and (fake)
GPUs than this machine has. Like many small clusters, it has no accounting.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

import psutil

FOLDER = Path("/run/lmpipe-slurm")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sinfo", "munged")
PORT = 6817  # of the controller; the nodes have the next ones
FAKE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
READY_SECONDS = 30


class SlurmError(Exception):
    """SLURM is not available here, or did not start."""


@dataclass(frozen=True)
class Cluster:
    """Number of nodes, and the resources that each of them claims."""

    nodes: int = 2
    cpus: int = 4
    memory_mb: int = 16_000
    gpus: int = 2


def write_configuration(folder: Path, cluster: Cluster) -> None:
    """Write slurm.conf and its companions, and the link that SLURM's commands read."""
    for name in ("state", "munge", "daemons", *(f"spool-node{number}" for number in range(1, cluster.nodes + 1))):
        (folder / name).mkdir(parents=True)
    template = Template(Path(__file__).with_name("slurm.conf").read_text(encoding="utf-8"))
    gres = f"Gres=gpu:{cluster.gpus}" if cluster.gpus else ""
    ports = {"port": PORT, "first_port": PORT + 1, "last_port": PORT + cluster.nodes}
    host = socket.gethostname().split(".")[0]
    text = template.substitute(vars(cluster), folder=folder, host=host, gres=gres, **ports)
    devices = "".join(f"Name=gpu File={device}\n" for device in FAKE_DEVICES[: cluster.gpus])
    for name, content in (("slurm.conf", text), ("gres.conf", devices), ("cgroup.conf", "")):
        (folder / name).write_text(content)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.unlink(missing_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")


def unavailable() -> str | None:
    """Reason why SLURM cannot run here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "SLURM's daemons are started by root, on Linux"
    if CONFIGURATION.exists() and not CONFIGURATION.is_symlink():
        return f"this machine has a SLURM already ({CONFIGURATION})"
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=path)]:
        return f"{missing[0]} is not installed; run apt-get install {' '.join(PACKAGES)}"
    return None


def running_daemons(folder: Path) -> list[psutil.Process]:
    """Daemons that were started and have not ended, the latest first; a reused process id is no daemon."""
    processes = []
    for path in sorted((folder / "daemons").glob("*.pid"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            process = psutil.Process(int(path.read_text()))
            if process.name() == path.stem.split("-")[0] and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def spawn(folder: Path, daemon: str, *arguments: str, user: str | None = None) -> None:
    """Start a daemon in a new session and write its pid file."""
    command = [f"/usr/sbin/{daemon.split('-')[0]}", *arguments]
    options = {"user": user, "group": user, "extra_groups": []} if user else {}
    with open(folder / f"{daemon}.out", "wb") as output:
        options |= {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        process = subprocess.Popen(command, start_new_session=True, cwd="/", **options)
    (folder / "daemons" / f"{daemon}.pid").write_text(str(process.pid))


def wait_for(what: str, is_ready: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
    """Wait until `is_ready` holds; raise SlurmError after `seconds`."""
    end = time.monotonic() + seconds
    while not is_ready():
        if time.monotonic() > end:
            raise SlurmError(f"{what} took longer than {seconds:g} seconds; its log is in {FOLDER}")
        time.sleep(0.1)


def succeeds(*command: str) -> bool:
    """Return whether a command succeeds."""
    return subprocess.run(command, capture_output=True, timeout=READY_SECONDS).returncode == 0


def output_of(*command: str) -> str:
    """Return the standard output of a command."""
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS).stdout.strip()


def is_up(folder: Path = FOLDER) -> bool:
    """Return whether the SLURM started here accepts jobs on all nodes."""
    if not (started := list(folder.glob("daemons/*.pid"))) or len(running_daemons(folder)) < len(started):
        return False
    return set(output_of("sinfo", "--noheader", "--Node", "--format=%T").split()) <= {"idle", "mixed", "allocated"}


def start_munge(folder: Path) -> None:
    """Start munge, which authenticates SLURM's daemons, with its own key and socket."""
    munge = folder / "munge"
    key = munge / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for path in (munge, key):
        shutil.chown(path, "munge", "munge")
    files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
    spawn(folder, "munged", "--foreground", f"--socket={munge}/socket", *files, user="munge")
    wait_for("munge", lambda: succeeds("munge", "--no-input", f"--socket={munge}/socket"))


def start(cluster: Cluster | None = None, folder: Path = FOLDER) -> bool:
    """Start SLURM unless it is up and return whether it was started; raise SlurmError if it is not available here."""
    if reason := unavailable():
        raise SlurmError(reason)
    if is_up(folder):
        return False
    stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
    cluster = cluster or Cluster()
    write_configuration(folder, cluster)
    try:
        start_munge(folder)
        spawn(folder, "slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        wait_for("slurmctld", lambda: succeeds("scontrol", "ping"))
        for number in range(1, cluster.nodes + 1):
            spawn(folder, f"slurmd-node{number}", "-D", "-N", f"node{number}", "-f", f"{folder}/slurm.conf")
        wait_for("slurmd", lambda: is_up(folder))
    except BaseException:
        stop(folder)
        raise
    return True


def stop(folder: Path = FOLDER) -> None:
    """Cancel all jobs and end the daemons that were started here, if there are any."""
    if is_up(folder):
        succeeds("scancel", "--user=root")
        # A job that is not cancelled leaves its step daemon behind.
        wait_for("cancelling all jobs", lambda: not output_of("squeue", "--noheader"))
    for process in running_daemons(folder):
        process.terminate()
        wait_for(f"stopping {process.name()}", lambda process=process: process not in running_daemons(folder))
    if CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == folder / "slurm.conf":
        CONFIGURATION.unlink()


def main() -> int:
    """Start or stop SLURM and print its nodes; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("action", choices=["start", "status", "stop"])
    for name, default in vars(Cluster()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    args = parser.parse_args()
    try:
        if args.action == "start":
            start(Cluster(args.nodes, args.cpus, args.memory_mb, args.gpus))
        elif args.action == "stop":
            stop()
    except SlurmError as error:
        sys.exit(f"benchmarks.slurm: {error}")
    nodes = ["sinfo", "--Node", "--noheader", "--format=%N %T cpus=%c memory=%m gres=%G"]
    print(output_of(*nodes) if is_up() else "not running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
