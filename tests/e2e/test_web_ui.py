"""Dagster's webserver and daemon on the same state: a backfill over GraphQL, and the pages in a real browser."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from streamforge_assets.client import StreamForge
from tests.e2e.served import serving_dagster
from tests.simulated import END, START, SYMBOL, assert_same, environment, stored_rows, true_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def web_ui(settings):
    with serving_dagster(environment(settings)) as url:
        yield url


def test_a_backfill_through_the_daemon_ends_at_the_truth_and_shows_in_the_browser(
    web_ui, settings, exchange, tmp_path
):
    client = StreamForge(settings, web_ui)
    result = client.backfill(["trades", "candles_5m"], [SYMBOL], start=START, end=END, progress=False)
    assert result.failures == {}
    assert result.partitions == 6
    for dataset in ("trades", "candles_5m"):
        stored = asyncio.run(stored_rows(settings, dataset, SYMBOL, START, END))
        assert_same(stored, true_rows(exchange, dataset, SYMBOL, START, END))
    look_at_the_pages(web_ui, tmp_path)


def look_at_the_pages(url: str, folder: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium; .ci/run installs it")
        pytest.skip("the backfill passed; its pages need Debian's chromium package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.goto(f"{url}/locations/streamforge/asset-groups/market/lineage")
        for name in ("trades", "candles_5m"):
            page.get_by_text(name, exact=True).first.wait_for()
        page.goto(f"{url}/assets/market/trades?view=partitions&partition=2024-08-02%7C{SYMBOL}")
        page.get_by_text(SYMBOL).first.wait_for()
        page.get_by_text("2024-08-02").first.wait_for()
        page.get_by_text("ids are consecutive").first.wait_for()
        page.get_by_role("button", name="Show Markdown").or_(page.get_by_text("[Show Markdown]")).first.click()
        picture = page.locator("img[src^='data:image/svg+xml']").first
        picture.wait_for()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
        page.goto(f"{url}/assets/market/candles_5m?view=checks")
        for check in ("complete", "agrees_with_trades", "ohlc_sane", "ordered_and_unique"):
            page.get_by_text(check).first.wait_for()
        page.screenshot(path=folder / "checks.png")
        browser.close()
