"""From an empty home to a trained model and a report, with the commands that a user types."""

import asyncio
import json
from datetime import date
from html.parser import HTMLParser

import pytest
from anyio.from_thread import start_blocking_portal

from resources.artifacts.local import LocalArtifacts
from resources.artifacts.sealed import publish_sealed
from resources.settings import Settings
from streamforge_assets.simulator.config import SimulatorConfig
from streamforge_assets.study.method import EXPERIMENTS, study_digest
from tests.simulated import environment, serve

pytestmark = pytest.mark.e2e

CONFIG = SimulatorConfig(symbols=4, seed=5, first_day=date(2024, 7, 25), r2=0.2, trades_scale=0.5)
SPAN = ["--from", "2024-08-01", "--to", "2024-08-07"]


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """An exchange whose four symbols trade in every bar, and settings that make small models of it."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(tmp_path, CONFIG)) as exchange:
        settings = Settings(
            home=tmp_path / "home",
            exchange="binance",
            rest_url=exchange.rest_url,
            archive_url=exchange.archive_url,
            start_date=CONFIG.first_day,
        )
        for name, value in {**environment(settings), "STREAMFORGE_MODEL_WINDOW": "4"}.items():
            monkeypatch.setenv(name, value)
        yield exchange


def without_study(home):
    """Put an empty method study in place: measuring it takes longer than all the rest."""

    async def publish():
        async with LocalArtifacts(home / "artifacts") as artifacts:
            content = json.dumps({name: [] for name in EXPERIMENTS}).encode()
            await publish_sealed(artifacts, f"reports/study/{study_digest()[:16]}", {"study.json": content})

    asyncio.run(publish())


def test_train_does_what_is_missing_and_a_report_says_how_good_it_is(command, busy, tmp_path):
    symbols = ",".join(item.symbol for item in CONFIG.instruments)
    code, out, err = command("train", "--symbols", symbols, *SPAN, "--folds", "2")
    assert code == 0, err
    assert "48 partitions" in err
    assert "gnn" in out
    assert "sparse_var" in out

    downloads = busy.stats.downloads.copy()
    code, again, err = command("train", "--symbols", symbols, *SPAN, "--folds", "2")
    assert code == 0, err
    assert busy.stats.downloads == downloads, "what is stored is not fetched again"
    assert forecasts_of(again) == forecasts_of(out), "and the same data give the same model"

    code, out, _ = command("graph", "2024-08-06", "--json")
    edges = json.loads(out)
    assert code == 0
    assert edges
    assert set(edges[0]) == {"leader", "follower", "lag", "weight", "t", "p", "q"}
    code, out, _ = command("graph", "2024-08-06", "--most", "3")
    assert code == 0
    assert edges[0]["leader"] in out

    without_study(tmp_path / "home")
    page = tmp_path / "report.html"
    code, out, err = command("report", "--from", "2024-08-06", "--to", "2024-08-07", "--out", str(page))
    assert code == 0, err
    assert out == f"{page}\n"
    assert "IC" in err, "the verdict"
    text = page.read_text()
    HTMLParser().feed(text)
    assert all(f"Figure {number}." in text for number in range(1, 17))
    assert "What did not work" in text


def forecasts_of(out: str) -> str:
    return out[out.index("Forecasts of the next bar") :]
