"""Identity of a process: its number, machine, container and start time."""

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, also after its number has been given to another."""
    return {**here(), "id": os.getpid(), "started": start_of(os.getpid())}


def here() -> dict[str, Any]:
    """Where numbers of processes mean the same: the machine, and the container on it (null where there are none)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = None
    return {"host": socket.gethostname(), "namespace": namespace}


def is_there(process: dict[str, Any]) -> bool | None:
    """Whether a process is still there; None where that cannot be seen from here."""
    if any(process[key] != value for key, value in here().items()):
        return None
    if process["started"] is not None:
        return start_of(process["id"]) == process["started"]
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def start_of(process_id: int) -> int | None:
    """When a process began, in ticks since the machine did; None for one that has ended, or a system without /proc."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name in brackets, which may hold anything: the state first, the start as the 20th (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
