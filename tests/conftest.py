"""What every test starts from: none of our environment variables, and a home folder of its own."""

import os
from pathlib import Path

import pytest

from resources.settings import PREFIX, Settings

pytest.register_assert_rewrite("tests.simulated", "tests.contract", "tests.unit")  # so that helpers explain too


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("STREAMFORGE_HOME", str(tmp_path / "home"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")
