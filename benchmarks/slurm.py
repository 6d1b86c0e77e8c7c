"""A real SLURM on this machine alone, to test against: `python -m benchmarks.slurm start`, `status` or `stop`.

Its packages are installed with apt-get where they are missing. The daemons run as root without systemd, listen on
127.0.0.1 only, and keep all that they write in one folder; /etc/slurm/slurm.conf becomes a link into it, because not
every child of a job passes SLURM_CONF on. A machine with a SLURM of its own is left alone. There are as many nodes as
one likes, each a daemon here; together they may claim more CPUs, memory and (fake) GPUs than this machine has. No
accounting is kept, as on many small clusters.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/run/lmpipe-slurm")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PORT = 6817  # of the controller; the nodes have the next ones
# Debian and Ubuntu ask this file whether a package may start its daemons.
POLICY = Path("/usr/sbin/policy-rc.d")
FAKE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
READY_SECONDS = 30


class SlurmError(Exception):
    """SLURM cannot be had here, or did not start; told in one line."""


@dataclass(frozen=True)
class Cluster:
    """How many nodes there are, and what each of them claims to have."""

    nodes: int = 2
    cpus: int = 4
    memory_mb: int = 16_000
    gpus: int = 2

    @property
    def names(self) -> list[str]:
        """The names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


def configuration(folder: Path, cluster: Cluster) -> str:
    """The text of slurm.conf."""
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
    """Write slurm.conf and what belongs to it, and link to it from where SLURM's commands look."""
    for name in ("state", "munge", *(f"spool-{node}" for node in cluster.names)):
        (folder / name).mkdir(parents=True)
    devices = "".join(f"Name=gpu File={device}\n" for device in FAKE_DEVICES[: cluster.gpus])
    (folder / "slurm.conf").write_text(configuration(folder, cluster))
    (folder / "gres.conf").write_text(devices)
    (folder / "cgroup.conf").write_text("")
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.unlink(missing_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")


# --- packages --------------------------------------------------------------------------------------------------------


def missing_packages() -> list[str]:
    """The packages that are still to be installed."""
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}"]

    def is_there(package: str) -> bool:
        found = subprocess.run([*query, package], capture_output=True, text=True)
        return found.stdout == "installed"

    return [package for package in PACKAGES if not is_there(package)]


def why_not() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "SLURM's daemons are started by root, on Linux"
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        return "SLURM is installed with apt-get, which is not here"
    if CONFIGURATION.exists() and not CONFIGURATION.is_symlink():
        return f"this machine has a SLURM of its own ({CONFIGURATION})"
    return None


def install(packages: Sequence[str]) -> None:
    """Install packages without starting the daemons that they bring; raises SlurmError where that fails."""
    has_policy = POLICY.exists()
    if not has_policy:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        # Lists that cannot be renewed may still do.
        subprocess.run(["apt-get", "update"], env=environment, capture_output=True)
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        if not has_policy:
            POLICY.unlink()
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        raise SlurmError(f"apt-get could not install {' '.join(packages)}: {reason}")


# --- daemons ---------------------------------------------------------------------------------------------------------


def process_of(pid_file: Path) -> int | None:
    """The id of a daemon that was started here and lives; the number may have gone to another process since."""
    try:
        process = int(pid_file.read_text())
        # "PID (NAME) STATE ...": a zombie is dead, too.
        name, state = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, ValueError):
        return None
    return process if name == program_of(pid_file.stem) and state.split()[0] != "Z" else None


def program_of(daemon: str) -> str:
    """The program that a daemon runs.

    >>> program_of("slurmd-node1")
    'slurmd'
    """
    return daemon.split("-")[0]


def spawn(folder: Path, daemon: str, *arguments: str, user: str | None = None) -> None:
    """Start a daemon, apart from this terminal and its signals, and note its id."""
    rights = {"user": user, "group": user, "extra_groups": []} if user else {}
    with open(folder / f"{daemon}.out", "wb") as output:
        process = subprocess.Popen(
            [f"/usr/sbin/{program_of(daemon)}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            **rights,
        )
    (daemons(folder) / f"{daemon}.pid").write_text(str(process.pid))


def daemons(folder: Path) -> Path:
    """Where the ids of the daemons are noted."""
    return folder / "daemons"


def wait_for(what: str, is_ready: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
    """Wait until something is so; raises SlurmError where it takes too long."""
    end = time.monotonic() + seconds
    while not is_ready():
        if time.monotonic() > end:
            raise SlurmError(f"{what} took longer than {seconds:g} seconds; its log is in {FOLDER}")
        time.sleep(0.1)


def works(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True, timeout=READY_SECONDS).returncode == 0


def output_of(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS).stdout.strip()


def is_up(folder: Path = FOLDER) -> bool:
    """Whether the SLURM that was started here takes jobs, on all its nodes."""
    noted = list(daemons(folder).glob("*.pid"))
    if not noted or not all(map(process_of, noted)):
        return False
    return set(output_of("sinfo", "--noheader", "--Node", "--format=%T").split()) <= {"idle", "mixed", "allocated"}


def start_munge(folder: Path) -> None:
    """Start munge, by which SLURM's daemons know each other, with a key and a socket of its own."""
    place = folder / "munge"
    key = place / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for path in (place, key):
        shutil.chown(path, "munge", "munge")
    files = [f"--{name}-file={place}/{name}" for name in ("key", "pid", "log", "seed")]
    spawn(folder, "munged", "--foreground", f"--socket={place}/socket", *files, user="munge")
    wait_for("munge", lambda: works("munge", "--no-input", f"--socket={place}/socket"))


def start(cluster: Cluster | None = None, folder: Path = FOLDER) -> bool:
    """Install SLURM where it is missing and start it; returns whether it had to be started.

    One that is up already is left as it is, whatever its nodes have. Raises SlurmError where it cannot be had.
    """
    if reason := why_not():
        raise SlurmError(reason)
    if packages := missing_packages():
        install(packages)
    if is_up(folder):
        return False
    stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
    cluster = cluster or Cluster()
    write_configuration(folder, cluster)
    daemons(folder).mkdir()
    try:
        start_munge(folder)
        spawn(folder, "slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        wait_for("slurmctld", lambda: works("scontrol", "ping"))
        for node in cluster.names:
            spawn(folder, f"slurmd-{node}", "-D", "-N", node, "-f", f"{folder}/slurm.conf")
        wait_for("slurmd", lambda: is_up(folder))
    except BaseException:
        stop(folder)
        raise
    return True


def stop(folder: Path = FOLDER) -> None:
    """Cancel all jobs and end the daemons that were started here; does nothing where there are none."""
    if is_up(folder):
        works("scancel", "--user=root")
        # Jobs that are not told leave their watchers behind.
        wait_for("cancelling all jobs", lambda: not output_of("squeue", "--noheader"))
    noted = daemons(folder).glob("*.pid")
    for pid_file in sorted(noted, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if process := process_of(pid_file):
            os.kill(process, signal.SIGTERM)
            wait_for(f"stopping {pid_file.stem}", lambda path=pid_file: not process_of(path))
    if CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == folder / "slurm.conf":
        CONFIGURATION.unlink()


def main() -> int:
    """Start or stop SLURM, or tell whether it is up; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("action", choices=["start", "status", "stop"])
    for name, default in vars(Cluster()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    given = parser.parse_args()
    try:
        if given.action == "start":
            start(Cluster(given.nodes, given.cpus, given.memory_mb, given.gpus))
        elif given.action == "stop":
            stop()
    except SlurmError as error:
        sys.exit(f"benchmarks.slurm: {error}")
    shown = ["sinfo", "--Node", "--noheader", "--format=%N %T cpus=%c memory=%m gres=%G"]
    print(output_of(*shown) if is_up() else "not running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
