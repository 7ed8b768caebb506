"""Where a model is trained: behind one call, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from resources.errors import Rejected, Unavailable
from resources.settings import Settings

JOB_VARIABLE = "TRAINING_JOB"
"""The environment variable that tells a training process the folder of its job."""

SILENCE_LIMIT = 900.0
"""Seconds without a word after which a training process is taken for hung."""

REJECTED, UNAVAILABLE = 4, 5
"""Exit codes of a training process for input that cannot be trained, and for what may work later."""

Progress = Callable[[float], None]


class Trainer(Protocol):
    """Trains what lies in a job's folder (see `jobs.py`) and leaves the result there.

    A job that was interrupted, even by `kill -9`, goes on from its last checkpoint when it is trained again, and
    ends with the same bytes.

    Raises Rejected when the job can never be trained; Unavailable when it may be later.
    """

    @abstractmethod
    def train(self, folder: Path, on_progress: Progress) -> None:
        """Train, calling `on_progress` with the share that is done, 0 to 1. Interrupting the call stops it."""


class InlineTrainer(Trainer):
    """Trains in this process."""

    def train(self, folder: Path, on_progress: Progress) -> None:
        """Train in the calling thread."""
        from streamforge_assets.modelling.jobs import run_job

        run_job(folder, on_progress)


class ProcessTrainer(Trainer):
    """Trains in a process of its own, which ends with this one, so that its memory and libraries stay apart."""

    def __init__(self, silence_limit: float = SILENCE_LIMIT) -> None:
        self._silence_limit = silence_limit

    def train(self, folder: Path, on_progress: Progress) -> None:
        """Start `python -m streamforge_assets.workers.gnn_trainer` and follow it."""
        with TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamforge_assets.workers.gnn_trainer"],
                env={**os.environ, JOB_VARIABLE: str(folder)},
                stdin=subprocess.PIPE,  # it ends when this does, also when this process is killed
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            try:
                self._follow(process, on_progress)
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
            self._judge(process.returncode, errors)

    def _follow(self, process: subprocess.Popen[str], on_progress: Progress) -> None:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=self._silence_limit)
            except queue.Empty:
                raise Unavailable(
                    f"the training process said nothing for {self._silence_limit:g} s and was ended;"
                    " repeat, it goes on from its last checkpoint"
                ) from None
            if line is None:
                process.wait()
                return
            on_progress(float(json.loads(line)["done"]))

    @staticmethod
    def _judge(code: int, errors: IO[bytes]) -> None:
        if code == 0:
            return
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        if code == REJECTED:
            raise Rejected(last)
        if code == UNAVAILABLE:
            raise Unavailable(last)
        raise Unavailable(
            f"the training process ended with code {code}: {last}; repeat, it goes on from its last checkpoint"
        )


def open_trainer(settings: Settings) -> Trainer:
    """The trainer that the settings choose."""
    match settings.trainer:
        case "inline":
            return InlineTrainer()
        case "process":
            return ProcessTrainer()
