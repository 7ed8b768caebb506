"""The chaos experiments at a size for CI; `make chaos` runs them in full."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.experiments import EXPERIMENTS, table
from tests.chaos.stage import SHORT, Stage, open_stage
from tests.servers.session import need_kafka

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TOO_LONG = {"all-brokers-away"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    need_kafka()
    with open_stage(tmp_path_factory.mktemp("chaos"), SHORT) as stage:
        yield stage


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in TOO_LONG])
def test_the_store_is_the_truth_whatever_happens(stage: Stage, name: str) -> None:
    findings = EXPERIMENTS[name](stage)
    assert all(finding.holds for finding in findings), table(findings)
