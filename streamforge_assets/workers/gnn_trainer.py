"""The training process: `python -m streamforge_assets.workers.gnn_trainer`, its job's folder in TRAINING_JOB.

Says how far it has come as JSON lines on standard output. Ends with its standard input. Exit codes: 0 trained,
4 the job can never be trained, 5 it may be later; the sentence is the last line on standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from resources.errors import Rejected, StreamForgeError
from streamforge_assets.modelling.jobs import run_job
from streamforge_assets.modelling.trainer import JOB_VARIABLE, REJECTED, UNAVAILABLE

ORPHANED = 130


def main() -> int:
    """Train the job of the environment."""
    folder = os.environ.get(JOB_VARIABLE)
    if not folder:
        sys.stderr.write(f"{JOB_VARIABLE} is not set; it must name the folder of a training job\n")
        return REJECTED
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    try:
        run_job(Path(folder), _say)
    except StreamForgeError as error:
        sys.stderr.write(f"{error}\n")
        return REJECTED if isinstance(error, Rejected) else UNAVAILABLE
    return 0


def _say(done: float) -> None:
    sys.stdout.write(json.dumps({"done": done}) + "\n")
    sys.stdout.flush()


def _end_with_the_input() -> None:
    sys.stdin.read()
    # Nothing is lost: what was trained so far is in the checkpoint.
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
