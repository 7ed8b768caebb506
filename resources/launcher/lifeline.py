"""A child's half of the bond with the process that started it: it ends when that one does, `kill -9` included."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Final

STARTED_BY: Final = "STREAMFORGE_STARTED_BY"
"""The variable with the process id of the starter. Absent in a container, where nobody waits for the end."""

_PR_SET_PDEATHSIG: Final = 1


def hold(environment: Mapping[str, str]) -> None:
    """From now on end with the starter that `environment` names; does nothing where it names none.

    Linux kills the process itself, even one that hangs or is stopped. Elsewhere a thread waits for the end of
    standard input, which the starter keeps open for as long as it lives.
    """
    starter = environment.get(STARTED_BY, "")
    if not starter:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The starter may have gone before the call; then nobody is left to tell.
        if os.getppid() != int(starter):
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        threading.Thread(target=_end_with_input, name="lifeline", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
