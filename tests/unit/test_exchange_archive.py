"""The exchange client's archive files: verified, resumed, fetched anew, or refused."""

import asyncio
import hashlib
import io
import zipfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from aiohttp import web

from resources.datasets import TRADES
from resources.errors import Rejected, Unavailable
from resources.exchange.binance import BinanceExchange
from tests.real_data import real_archive
from tests.unit.scripted import DAY, FIVE, MS, SERVER, ZIP, Handler, Server, config, status

pytestmark = pytest.mark.usefixtures("no_waiting")


def day_zip(rows: int = 2000, price: str = "10.5") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        out.writestr("x.csv", "".join(f"{i},{price},2,{i},{i},{MS + i},True,True\n" for i in range(rows)))
    return buffer.getvalue()


def cut_after(part: int) -> Handler:
    """Announce the whole body, send the first bytes, and reset the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        server = request.app[SERVER]
        whole = server.file(request)
        body = bytes(whole.body)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:part])
        await asyncio.sleep(0.02)
        request.transport.abort()
        return response

    return answer


async def archived(exchange: BinanceExchange) -> list[object] | None:
    async with exchange.archive_file(TRADES, "BTCUSDT", DAY) as file:
        if file is None:
            return None
        assert file.path.stat().st_size == file.bytes
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.checksum
        return pa.concat_tables(file.tables())["price"].to_pylist()


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "downloads").iterdir())


async def test_a_day_is_downloaded_verified_and_removed(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    assert await archived(exchange) == [10.5] * 2000
    assert left(tmp_path) == []
    assert await exchange.archive_checksum(TRADES, "BTCUSDT", DAY) == hashlib.sha256(day_zip()).hexdigest()


async def test_a_day_that_is_not_there_is_none(server: Server, exchange: BinanceExchange) -> None:
    assert await archived(exchange) is None
    assert await exchange.archive_checksum(FIVE, "BTCUSDT", DAY) is None


@pytest.mark.parametrize("lacks", ["", ".CHECKSUM"])
async def test_half_of_a_pair_counts_as_absent_with_a_warning(
    server: Server, exchange: BinanceExchange, caplog: pytest.LogCaptureFixture, lacks: str
) -> None:
    server.publish(day_zip())
    del server.files[ZIP + lacks]
    assert await archived(exchange) is None
    assert "BTCUSDT-aggTrades-2024-08-01.zip" in caplog.text


async def test_an_interrupted_download_resumes(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [cut_after(30_000), cut_after(20_000)]
    assert await archived(exchange) == [10.5] * 2000
    ranges = [request.headers.get("Range") for request in server.asked(ZIP)]
    assert ranges == [None, "bytes=30000-", "bytes=50000-"]
    assert server.asked(ZIP)[1].headers["If-Range"].startswith('"')


async def test_a_download_resumes_in_the_next_process(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [cut_after(30_000)] + [status(500)] * 3
    with pytest.raises(Unavailable):
        await archived(exchange)
    async with BinanceExchange(config(server.url, tmp_path)) as restarted:
        assert await archived(restarted) == [10.5] * 2000
    assert server.asked(ZIP)[-1].headers["Range"] == "bytes=30000-"
    assert left(tmp_path) == []


async def test_a_file_published_again_meanwhile_is_fetched_anew(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    cut = cut_after(30_000)

    async def republish(request: web.Request) -> web.StreamResponse:
        answer = await cut(request)
        server.publish(day_zip(price="99"))
        return answer

    server.script[ZIP] = [republish]
    assert await archived(exchange) == [99.0] * 2000


async def test_a_content_that_never_fits_its_checksum_is_rejected(
    server: Server, exchange: BinanceExchange, tmp_path: Path
) -> None:
    server.publish(day_zip())
    server.files[ZIP] = day_zip(price="99")
    with pytest.raises(Rejected, match=r"aggTrades-2024-08-01\.zip is broken .* 3 downloads"):
        await archived(exchange)
    assert len(server.asked(ZIP)) == 3
    assert left(tmp_path) == []


async def test_a_wrong_answer_is_outlived(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    server.script[ZIP] = [lambda request: web.Response(body=day_zip()[:500])]
    server.script[ZIP + ".CHECKSUM"] = [lambda request: web.Response(text="<html>busy</html>"), status(503)]
    assert await archived(exchange) == [10.5] * 2000


async def test_two_who_want_the_same_day_do_no_harm(server: Server, exchange: BinanceExchange) -> None:
    server.publish(day_zip())
    assert await asyncio.gather(*(archived(exchange) for _ in range(4))) == [[10.5] * 2000] * 4


async def test_a_symbol_cannot_leave_the_archive(exchange: BinanceExchange) -> None:
    for symbol in ("../../etc", "btc usdt", ""):
        with pytest.raises(Rejected, match="not a symbol"):
            await exchange.archive_checksum(TRADES, symbol, DAY)


async def test_a_missing_archive_folder_is_one_sentence(tmp_path: Path) -> None:
    async with BinanceExchange(config("http://x", tmp_path, archive_url="file:///nowhere/at/all")) as exchange:
        with pytest.raises(Rejected, match=r"no archive folder /nowhere/at/all; STREAMFORGE_ARCHIVE_URL"):
            await exchange.archive_checksum(TRADES, "BTCUSDT", DAY)


async def test_a_folder_is_verified_in_place(tmp_path: Path) -> None:
    zipped = tmp_path / "archive" / ZIP[1:]
    zipped.parent.mkdir(parents=True)
    zipped.write_bytes(day_zip())
    sums = zipped.with_name(zipped.name + ".CHECKSUM")
    settings = config("http://x", tmp_path, archive_url=(tmp_path / "archive").as_uri())
    async with BinanceExchange(settings) as exchange:
        assert await archived(exchange) is None
        sums.write_text(f"{hashlib.sha256(day_zip()).hexdigest()}  {zipped.name}\n")
        assert await archived(exchange) == [10.5] * 2000
        assert zipped.exists()
        zipped.write_bytes(day_zip(price="99"))
        with pytest.raises(Rejected, match="is broken: its SHA-256"):
            await archived(exchange)


@pytest.mark.real_data
async def test_real_files_are_verified_and_read(tmp_path: Path) -> None:
    settings = config("http://x", tmp_path, archive_url=real_archive().resolve().as_uri())
    async with BinanceExchange(settings) as exchange:
        async with exchange.archive_file(TRADES, "XRPETH", date(2019, 10, 11)) as file:
            table = pa.concat_tables(file.tables())
        assert table["trade_id"].to_pylist() == list(range(13519807, 13525736))
