"""Where the real exchange captures lie: `STREAMFORGE_TEST_DATA`, or `shared/data` beside the repository."""

import os
from pathlib import Path

import pytest


def real_archive() -> Path:
    """The folder of real archive files; skips the calling test, saying why, where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAMFORGE_TEST_DATA", beside)) / "binance-archive"
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}; set STREAMFORGE_TEST_DATA to the folder that holds them")
    return folder
