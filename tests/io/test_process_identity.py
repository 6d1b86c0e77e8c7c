"""Processes that other processes look up by their identity."""

import os
import subprocess
import sys
import time

from lmpipe.io.process_identity import ProcessIdentity

PRINT_IDENTITY = (
    "from lmpipe.io.process_identity import ProcessIdentity as P; "
    "print(P.current().model_dump_json(), flush=True); input()"
)


def test_process_is_alive_until_it_ends():
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_IDENTITY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        identity = ProcessIdentity.model_validate_json(child.stdout.readline())
        assert identity.is_alive is True
        child.kill()
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.01)
        assert identity.is_alive is False, "a zombie"
    assert identity.is_alive is False


def test_this_process_is_alive_and_an_earlier_one_of_the_same_number_is_not():
    identity = ProcessIdentity.current()
    assert identity.is_alive is True
    assert identity.model_copy(update={"create_time": 1.0}).is_alive is False


def test_process_of_another_machine_cannot_be_seen():
    assert ProcessIdentity.current().model_copy(update={"host": "another machine"}).is_alive is None
