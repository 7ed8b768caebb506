"""What all processes of one machine must know about an exchange: weight used, bans, and hosts that do not answer.

One small JSON file per exchange under `<home>/exchange`, changed under a file lock and replaced atomically.
It survives restarts, so that a banned machine does not ask again because it was started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from resources.errors import Rejected, StreamForgeError, Unavailable

_LOCK_SECONDS = 10.0


@dataclass(slots=True)
class State:
    """The shared facts. Times are seconds since the epoch, by this machine's clock.

    `used` is request weight per window of the exchange's clock (window number as text). `limit` is the weight
    allowed in a window of `seconds`, as the exchange told it last; 0 until it has. `silent` holds, per host
    role, until when it counts as unreachable, when it may be tried again, and why.
    """

    used: dict[str, int] = field(default_factory=dict)
    limit: int = 0
    seconds: int = 60
    blocked_until: float = 0.0
    banned: bool = False
    silent: dict[str, tuple[float, float, str]] = field(default_factory=dict)


class StateFile:
    """Reads and changes the shared state. Opens nothing until used.

    Args:
        folder: where the file lies; made on first use.
        address: base URL of the REST API; each exchange address has its own file.
    """

    def __init__(self, folder: Path, address: str) -> None:
        name = re.sub(r"[^A-Za-z0-9]+", "-", address.partition("://")[2]).strip("-") or "exchange"
        self.path = folder / f"{name}.json"
        self._lock = FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS)

    @contextlib.contextmanager
    def change(self) -> Iterator[State]:
        """Hold the lock, give the state, and write it back if it was changed.

        Raises:
            Rejected: the folder cannot be written.
            Unavailable: the disk is full, or another process keeps the lock.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                state = self.read()
                before = asdict(state)
                yield state
                if asdict(state) != before:
                    self._write(state)
        except Timeout as error:
            raise Unavailable(f"another process keeps the lock {self.path}.lock") from error
        except OSError as error:
            raise disk_error(self.path.parent, error) from error

    def read(self) -> State:
        """Return the state as last written. A missing or unreadable file is an empty state."""
        try:
            return _decode(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return State()
        except (ValueError, TypeError, KeyError):
            return State()  # torn by a power cut: at worst the exchange refuses once more
        except OSError as error:
            raise disk_error(self.path.parent, error) from error

    def _write(self, state: State) -> None:
        part = self.path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(asdict(state)))
        part.replace(self.path)


def disk_error(folder: Path, error: OSError) -> StreamForgeError:
    """Say in one sentence why `folder` cannot be written: Rejected for rights, Unavailable for room."""
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == 30:  # EROFS
        return Rejected(
            f"{folder} cannot be written ({error.strerror}); set STREAMFORGE_HOME to a folder that can"
        )
    return Unavailable(f"{folder} cannot be written ({error.strerror or error}); free space there and repeat")


def _decode(data: dict[str, object]) -> State:
    used, silent = data["used"], data["silent"]
    if not isinstance(used, dict) or not isinstance(silent, dict):
        raise TypeError("not a state")
    return State(
        used={str(window): int(weight) for window, weight in used.items()},
        limit=int(str(data["limit"])),
        seconds=int(str(data["seconds"])),
        blocked_until=float(str(data["blocked_until"])),
        banned=bool(data["banned"]),
        silent={str(k): (float(until), float(again), str(why)) for k, (until, again, why) in silent.items()},
    )
