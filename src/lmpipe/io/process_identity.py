"""Identity of a process, in files that other processes read."""

import os
import socket
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

# psutil derives a start time from that of the system, which moves when the clock is corrected.
CLOCK_TOLERANCE_SECONDS = 2.0


class ProcessIdentity(BaseModel):
    """A process on one machine or in one container; a later process with the same number is another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    """Name of the machine."""
    pid_namespace: str | None
    """Container in which `pid` counts; null if the system has none."""
    pid: int
    """Number of the process."""
    create_time: float
    """Start of the process, in seconds since 1970."""

    @classmethod
    def current(cls) -> Self:
        """Return the identity of this process."""
        process = psutil.Process()
        host, namespace = socket.gethostname(), pid_namespace()
        return cls(host=host, pid_namespace=namespace, pid=process.pid, create_time=process.create_time())

    @property
    def is_alive(self) -> bool | None:
        """True while the process runs; None if it cannot be seen from here."""
        if (self.host, self.pid_namespace) != (socket.gethostname(), pid_namespace()):
            return None
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.create_time) < CLOCK_TOLERANCE_SECONDS
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def pid_namespace() -> str | None:
    """Return the name of this process's PID namespace; None on a system without them."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
