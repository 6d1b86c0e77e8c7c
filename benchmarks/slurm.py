"""A real SLURM on this machine, to test against: `python -m benchmarks.slurm start`, `status` or `stop`.

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. The daemons run without systemd, listen
on 127.0.0.1 only, and write to one folder; /etc/slurm/slurm.conf becomes a link into it, because not every child of a
job passes SLURM_CONF on. A machine that has a SLURM already is left alone. Each node is a daemon; together the nodes
may claim more CPUs, memory and (fake) GPUs than this machine has. Like many small clusters, it has no accounting.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


def configuration(folder: Path, cluster: Cluster) -> str:
    """Text of slurm.conf."""
    host = socket.gethostname().split(".")[0]
    gpus = f"Gres=gpu:{cluster.gpus}" if cluster.gpus else ""
    return f"""ClusterName=lmpipe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={PORT}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=30
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.own.pid
SlurmdPidFile={folder}/slurmd-%n.own.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PropagateResourceLimits=NONE
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=2
KillWait=2
MaxArraySize=1001
MaxJobCount=10000
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cluster.cpus} CoresPerSocket={cluster.cpus} RealMemory={cluster.memory_mb} {gpus}
NodeName=node[1-{cluster.nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={PORT + 1}-{PORT + cluster.nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=1000 State=UP
"""


def write_configuration(folder: Path, cluster: Cluster) -> None:
    """Write slurm.conf and its companions, and the link where SLURM's commands look for it."""
    for name in ("state", "munge", *(f"spool-{node}" for node in cluster.names)):
        (folder / name).mkdir(parents=True)
    devices = "".join(f"Name=gpu File={device}\n" for device in FAKE_DEVICES[: cluster.gpus])
    (folder / "slurm.conf").write_text(configuration(folder, cluster))
    (folder / "gres.conf").write_text(devices)
    (folder / "cgroup.conf").write_text("")
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.unlink(missing_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")


def unavailable() -> str | None:
    """Reason why SLURM cannot run here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "SLURM's daemons are started by root, on Linux"
    if CONFIGURATION.exists() and not CONFIGURATION.is_symlink():
        return f"this machine has a SLURM already ({CONFIGURATION})"
    if missing := [
        program for program in PROGRAMS if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    ]:
        return f"{missing[0]} is not installed; run apt-get install {' '.join(PACKAGES)}"
    return None


# --- daemons ---------------------------------------------------------------------------------------------------------


def daemon_pid(pid_file: Path) -> int | None:
    """Process id of a running daemon from its pid file; None if it has ended, also if the id was reused."""
    try:
        process = int(pid_file.read_text())
        # "PID (NAME) STATE ..."; a zombie has ended, too.
        name, state = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, ValueError):
        return None
    return process if name == daemon_program(pid_file.stem) and state.split()[0] != "Z" else None


def daemon_program(daemon: str) -> str:
    """Program that a daemon runs.

    >>> daemon_program("slurmd-node1")
    'slurmd'
    """
    return daemon.split("-")[0]


def spawn(folder: Path, daemon: str, *arguments: str, user: str | None = None) -> None:
    """Start a daemon in a session of its own and write its pid file."""
    rights = {"user": user, "group": user, "extra_groups": []} if user else {}
    with open(folder / f"{daemon}.out", "wb") as output:
        process = subprocess.Popen(
            [f"/usr/sbin/{daemon_program(daemon)}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            **rights,
        )
    (pid_folder(folder) / f"{daemon}.pid").write_text(str(process.pid))


def pid_folder(folder: Path) -> Path:
    """Folder of the pid files."""
    return folder / "daemons"


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
    pid_files = list(pid_folder(folder).glob("*.pid"))
    if not pid_files or not all(map(daemon_pid, pid_files)):
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
    """Start SLURM unless it is up; return whether it was started. Raises SlurmError if it is not available here."""
    if reason := unavailable():
        raise SlurmError(reason)
    if is_up(folder):
        return False
    stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
    cluster = cluster or Cluster()
    write_configuration(folder, cluster)
    pid_folder(folder).mkdir()
    try:
        start_munge(folder)
        spawn(folder, "slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        wait_for("slurmctld", lambda: succeeds("scontrol", "ping"))
        for node in cluster.names:
            spawn(folder, f"slurmd-{node}", "-D", "-N", node, "-f", f"{folder}/slurm.conf")
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
    pid_files = pid_folder(folder).glob("*.pid")
    for pid_file in sorted(pid_files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if process := daemon_pid(pid_file):
            os.kill(process, signal.SIGTERM)
            wait_for(f"stopping {pid_file.stem}", lambda path=pid_file: not daemon_pid(path))
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
