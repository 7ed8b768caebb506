"""A training's state on disk: written whole or not at all, found again whole or refused.

A file is 32 bytes of SHA-256 and the payload that it is of. It is written beside its place, flushed to disk and
renamed, and the one before is kept: whenever the process is killed, at least one whole file is there.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resources.errors import Rejected

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_HASH = 32


class Checkpoints:
    """The checkpoints of one training in one folder.

    Args:
        folder: made when it is not there.
        identity: what the training is of (hashes of config, data, graph …); a checkpoint of another is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = dict(identity)

    def save(self, state: Mapping[str, Any]) -> None:
        """Make `state` the last checkpoint; the last one becomes the previous one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, "state": dict(state)}, buffer)
        payload = buffer.getvalue()
        last = self.folder / LAST
        part = self.folder / f"{LAST}.part"
        with part.open("wb") as file:
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            last.replace(self.folder / PREVIOUS)
        part.replace(last)
        _sync_folder(self.folder)

    def load(self) -> dict[str, Any] | None:
        """The newest whole state, or None when no training has saved one.

        Raises:
            Rejected: when files are there but none is whole, or they belong to another training.
        """
        found = [path for path in (self.folder / LAST, self.folder / PREVIOUS) if path.exists()]
        for path in found:
            content = _whole(path)
            if content is not None:
                self._check(content["identity"])
                state: dict[str, Any] = content["state"]
                return state
        if found:
            raise Rejected(f"the checkpoint in {self.folder} is damaged; delete the folder to train anew")
        return None

    def _check(self, found: Mapping[str, str]) -> None:
        other = sorted(name for name in {*found, *self.identity} if found.get(name) != self.identity.get(name))
        if other:
            raise Rejected(
                f"the checkpoint in {self.folder} is of another training: {', '.join(other)} differ;"
                " delete the folder to train anew"
            )


def _whole(path: Path) -> dict[str, Any] | None:
    raw = path.read_bytes()
    if len(raw) <= _HASH or hashlib.sha256(raw[_HASH:]).digest() != raw[:_HASH]:
        return None
    content: dict[str, Any] = torch.load(io.BytesIO(raw[_HASH:]), weights_only=True, map_location="cpu")
    return content


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
