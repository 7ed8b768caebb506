"""Apache Kafka's jars, fetched once by Maven into a cache that all checkouts and test runs share."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from filelock import FileLock

POM = Path(__file__).with_name("pom.xml")
FETCH_LIMIT = 600.0


class NotAvailable(Exception):
    """This machine lacks something that a server needs. The message says what, and how to get it."""


def java() -> str:
    """The Java to run. Raises NotAvailable without one."""
    return _program("java", "default-jre-headless")


def kafka_jars() -> Path:
    """The folder with Kafka's jars. The first call on a machine has Maven fetch them, which takes some seconds.

    Any number of processes may call this at once: one fetches, the others wait. Raises NotAvailable.
    """
    java()
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    folder = cache() / f"kafka-{wanted}"
    if not folder.is_dir():
        maven = _program("mvn", "maven")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock"), timeout=FETCH_LIMIT):
            if not folder.is_dir():
                _fetch(maven, folder)
    return folder


def class_archive(jars: Path) -> Path:
    """Where the archive of Kafka's loaded classes is, once a broker has left one (Java's AppCDS)."""
    return jars / "classes.jsa"


def keep_class_archive(jars: Path, folder: Path) -> None:
    """Move the archive that a broker left in `folder` to its place, unless another was sooner or there is none."""
    left = folder / class_archive(jars).name
    if left.exists():
        unfinished = jars / f"{uuid.uuid4().hex}.part"
        shutil.move(left, unfinished)
        unfinished.replace(class_archive(jars))


def cache() -> Path:
    """Where downloads are kept between test runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamforge"


def _fetch(maven: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        shutil.copy(POM, scratch)
        goal = "dependency:copy-dependencies"
        options = ["-DincludeScope=runtime", "-DoutputDirectory=lib"]
        done = subprocess.run(
            [maven, "-q", "-B", goal, *options],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=FETCH_LIMIT,
            check=False,
        )
        if done.returncode:
            raise NotAvailable(f"Maven could not fetch Kafka: {(done.stdout or done.stderr).strip()[:500]}")
        # A half-fetched folder never has the final name.
        (Path(scratch) / "lib").rename(folder)


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotAvailable(f"there is no `{name}` on this machine; install Debian's {package}, or its like")
    return found
