"""Artifacts that prove themselves: a manifest of SHA-256 digests beside the files, checked at every read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from resources.artifacts.port import Artifacts
from resources.errors import Rejected

MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"


async def publish_sealed(artifacts: Artifacts, prefix: str, files: Mapping[str, bytes]) -> None:
    """Publish `files` below `prefix` in one step, with the manifest that `read_sealed` checks them against."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = json.dumps({"sha256": digests}, indent=1).encode()
    await artifacts.publish(prefix, {**files, MANIFEST: manifest})


async def is_published(artifacts: Artifacts, prefix: str) -> bool:
    """Whether `prefix` was published whole."""
    return f"{prefix}/{SUCCESS}" in await artifacts.list(prefix)


async def read_sealed(artifacts: Artifacts, prefix: str, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Return the files of `prefix` (only `names`, when given), each equal to what was published.

    Raises:
        Rejected: when nothing is there, when it was never finished, or when a file was changed, added or lost.
    """
    there = {key.removeprefix(f"{prefix}/") for key in await artifacts.list(prefix)}
    if not there:
        raise Rejected(f"there is no {prefix} among the artifacts; materialise that partition first")
    if SUCCESS not in there or MANIFEST not in there:
        raise Rejected(f"{prefix} was never finished: it lacks {SUCCESS}; materialise that partition again")
    digests = _digests(await artifacts.get(f"{prefix}/{MANIFEST}"), prefix)
    strange = sorted(there ^ {*digests, SUCCESS, MANIFEST})
    if strange:
        what = "is not one of its files" if strange[0] in there else "is gone"
        raise Rejected(f"{prefix} was changed: {strange[0]} {what}; materialise that partition again")
    absent = sorted(set(names or ()) - set(digests))
    if absent:
        raise Rejected(f"{prefix} has no {absent[0]}; it was made by another version, materialise it again")
    found: dict[str, bytes] = {}
    for name in digests if names is None else names:
        content = await artifacts.get(f"{prefix}/{name}")
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise Rejected(
                f"{prefix}/{name} is not what was published: its SHA-256 differs; materialise that partition again"
            )
        found[name] = content
    return found


def _digests(manifest: bytes, prefix: str) -> dict[str, str]:
    try:
        digests: dict[str, str] = json.loads(manifest)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(
            f"{prefix}/{MANIFEST} cannot be read ({error}); materialise that partition again"
        ) from error
    return digests
