"""What the parsers promise: exact decimals, both units of time, and no record out of garbage."""

import contextlib
import json
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.datasets import TRADES, candles
from resources.errors import Rejected
from resources.exchange import parse
from resources.exchange.parse import parse_candles, parse_trades, read_archive
from resources.exchange.port import ArchiveFile
from resources.records import CANDLE, TRADE
from tests.real_data import real_archive

DAY = date(2024, 8, 1)
MS = 1722470400000
TRADE_ROW = f"7,60000.5,0.25,10,12,{MS + 5},True,True"
CANDLE_ROW = f"{MS},10,12,9,11,3.5,{MS + 299_999},36.25,4,1.5,15.5,0"
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def decimals(draw: st.DrawFn) -> str:
    """A positive decimal as Binance writes it: up to 15 significant digits, up to 8 of them behind the point."""
    digits = draw(st.integers(1, 10**15 - 1))
    places = draw(st.integers(0, 8))
    return f"{Decimal(digits).scaleb(-places):f}"


def archive(folder: Path, text: str | bytes, dataset=TRADES, day: date = DAY) -> ArchiveFile:
    path = folder / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("file.csv", text)
    return ArchiveFile(dataset, "BTCUSDT", day, path, "", path.stat().st_size)


def read(folder: Path, text: str | bytes, dataset=TRADES) -> pa.Table:
    schema = TRADE.schema if dataset is TRADES else CANDLE.schema
    return pa.concat_tables([schema.empty_table(), *read_archive(archive(folder, text, dataset))])


def rest_trade(**changes: object) -> dict[str, object]:
    return {"a": 7, "p": "60000.5", "q": "0.25", "f": 10, "l": 12, "T": MS + 5, "m": True, "M": True} | changes


def rest_candle(**changes: object) -> list[object]:
    row = [MS, "10", "12", "9", "11", "3.5", MS + 299_999, "36.25", 4, "1.5", "15.5", "0"]
    for place, value in changes.items():
        row[int(place[1:])] = value
    return row


@quick
@given(price=decimals(), quantity=decimals())
def test_every_decimal_survives_rest_and_archive(tmp_path: Path, price: str, quantity: str) -> None:
    row = f"7,{price},{quantity},10,12,{MS},True,True"
    for table in (
        read(tmp_path, row),
        parse_trades(json.dumps([rest_trade(p=price, q=quantity)]).encode(), "BTCUSDT"),
    ):
        assert Decimal(repr(table["price"][0].as_py())) == Decimal(price)
        assert Decimal(repr(table["quantity"][0].as_py())) == Decimal(quantity)


@quick
@given(st.binary(max_size=300) | st.text('0123456789,.-TrueFalsnai\n\r" ', max_size=300).map(str.encode))
def test_garbage_csv_is_rejected_or_valid(tmp_path: Path, body: bytes) -> None:
    for dataset in (TRADES, candles("5m")):
        try:
            table = read(tmp_path, body, dataset)
        except Rejected:
            continue
        assert table.num_rows == 0 or b"," in body


@quick
@given(place=st.integers(0, 60), byte=st.integers(0, 255))
def test_a_changed_byte_never_yields_an_impossible_trade(tmp_path: Path, place: int, byte: int) -> None:
    body = bytearray((TRADE_ROW + "\n" + TRADE_ROW.replace("7,", "8,", 1)).encode())
    body[place % len(body)] = byte
    try:
        table = read(tmp_path, bytes(body))
    except Rejected:
        return
    table.validate(full=True)
    assert table.schema == TRADE.schema
    for row in table.to_pylist():
        assert row["trade_id"] >= 0
        assert 0 < row["price"] < float("inf")
        assert 0 < row["quantity"] < float("inf")
        assert row["last_trade_id"] >= row["first_trade_id"] >= 0
        assert row["time"].date() == DAY


@quick
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_garbage_json_is_rejected_or_empty(body: bytes) -> None:
    for parser in (lambda b: parse_trades(b, "BTCUSDT"), lambda b: parse_candles(b, "BTCUSDT", "5m")):
        with contextlib.suppress(Rejected):
            assert parser(body).num_rows == 0


@quick
@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_broken_zip_is_rejected(tmp_path: Path, noise: bytes, place: int) -> None:
    file = archive(tmp_path, "\n".join([TRADE_ROW] * 20))
    whole = file.path.read_bytes()
    for body in (noise, whole[:place], whole[:place] + noise + whole[place + len(noise) :]):
        file.path.write_bytes(body)
        try:
            tables = list(read_archive(file))
        except Rejected:
            continue
        for table in tables:
            table.validate(full=True)


@pytest.mark.parametrize("scale", [1, 1000], ids=["milliseconds", "microseconds"])
@pytest.mark.parametrize(
    "header", ["", "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,best\n"]
)
def test_trades_with_and_without_header_in_either_unit(tmp_path: Path, scale: int, header: str) -> None:
    table = read(tmp_path, f"{header}7,60000.5,0.25,10,12,{(MS + 5) * scale},True,True\n")
    assert table.schema == TRADE.schema
    assert table.to_pylist() == [
        {
            "symbol": "BTCUSDT",
            "trade_id": 7,
            "time": datetime(2024, 8, 1, 0, 0, 0, 5000, UTC),
            "price": 60000.5,
            "quantity": 0.25,
            "first_trade_id": 10,
            "last_trade_id": 12,
            "is_buyer_maker": True,
        }
    ]
    assert table == parse_trades(json.dumps([rest_trade(T=(MS + 5) * scale)]).encode(), "BTCUSDT")


def test_microseconds_are_kept(tmp_path: Path) -> None:
    table = read(tmp_path, f"7,1,1,1,1,{MS * 1000 + 123},false,true")
    assert table["time"][0].as_py().microsecond == 123
    assert table["is_buyer_maker"][0].as_py() is False


def test_trades_without_the_best_match_column(tmp_path: Path) -> None:
    assert read(tmp_path, TRADE_ROW.rsplit(",", 1)[0] + "\n").num_rows == 1


def test_a_microsecond_candle_closes_on_its_last_millisecond(tmp_path: Path) -> None:
    micro = f"{MS}000,10,12,9,11,3.5,{MS + 299_999}999,36.25,4,1.5,15.5,0"
    table = read(tmp_path, micro, candles("5m"))
    assert table == read(tmp_path, CANDLE_ROW, candles("5m"))
    assert table == parse_candles(json.dumps([rest_candle()]).encode(), "BTCUSDT", "5m")
    assert table["close_time"][0].as_py() == datetime(2024, 8, 1, 0, 4, 59, 999000, UTC)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_keep_the_files_own_order_and_repeats(tmp_path: Path, end: str) -> None:
    rows = [TRADE_ROW.replace("7,", f"{i},", 1) for i in (3, 1, 1, 2)]
    assert read(tmp_path, end.join(rows) + end)["trade_id"].to_pylist() == [3, 1, 1, 2]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "").num_rows == 0
    assert read(tmp_path, "open_time,o,h,l,c,v,close_time,q,n,tb,tq,ignore\n", candles("5m")).num_rows == 0


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("7,60000.5,0.25,10,12", "Expected 8 columns"),
        (TRADE_ROW.replace("60000.5", "-1"), "price"),
        (TRADE_ROW.replace("60000.5", "nan"), "price"),
        (TRADE_ROW.replace("60000.5", "inf"), "price"),
        (TRADE_ROW.replace("60000.5", ""), "conversion"),
        (TRADE_ROW.replace("0.25", "0"), "quantity"),
        (TRADE_ROW.replace("7,", "-7,", 1), "trade_id"),
        (TRADE_ROW.replace("10,12", "12,10"), "last_trade_id"),
        (TRADE_ROW.replace(str(MS + 5), str(MS - 1)), "time"),
        (TRADE_ROW.replace(str(MS + 5), str(MS + 86_400_000)), "time"),
        (TRADE_ROW.replace(str(MS + 5), str((MS + 5) * 1000)), "time"),
        (TRADE_ROW.replace("True", "maybe"), "conversion"),
        ("", "conversion"),
    ],
)
def test_a_bad_trade_is_named_by_file_row_and_fault(tmp_path: Path, row: str, fault: str) -> None:
    good = [TRADE_ROW] * 1500
    text = "\n".join(["id,p,q,f,l,t,m,b", *good, row, *good])
    with pytest.raises(Rejected, match=rf"file\.zip, row 1502: .*{fault}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (0, MS + 1, "grid"),
        (0, MS - 300_000, "day"),
        (1, 0, "open is not"),
        (2, 10.5, "high"),
        (3, 10.5, "low"),
        (5, -1, "volume"),
        (6, MS + 300_000, "close_time"),
        (8, -1, "trade_count"),
        (10, "inf", "taker_buy_quote_volume"),
    ],
)
def test_a_bad_candle_is_named(tmp_path: Path, place: int, value: object, fault: str) -> None:
    fields = CANDLE_ROW.split(",")
    fields[place] = str(value)
    with pytest.raises(Rejected, match=rf"file\.zip, row 2: .*{fault}"):
        read(tmp_path, CANDLE_ROW + "\n" + ",".join(fields), candles("5m"))


def test_blocks_join_without_losing_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [TRADE_ROW.replace("7,", f"{i},", 1) for i in range(500)]
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(parse, "BLOCK", size)
        assert read(tmp_path, "\n".join(rows))["trade_id"].to_pylist() == list(range(500))
    with pytest.raises(Rejected, match="row 251"):
        read(tmp_path, "\n".join([*rows[:250], "x" + rows[250], *rows[251:]]))


@pytest.mark.parametrize(
    "change",
    [{"p": 1.5}, {"p": "nan"}, {"p": None}, {"a": 7.0}, {"a": True}, {"a": 2**70}, {"f": -1}, {"T": 5}, {"m": 1}],
    ids=str,
)
def test_a_bad_rest_trade_is_rejected(change: dict[str, object]) -> None:
    with pytest.raises(Rejected, match="row 2"):
        parse_trades(json.dumps([rest_trade(), rest_trade() | change]).encode(), "BTCUSDT")


@pytest.mark.parametrize("change", [{"p1": 1.5}, {"p0": MS + 1}, {"p6": MS}, {"p8": "4"}], ids=str)
def test_a_bad_rest_candle_is_rejected(change: dict[str, object]) -> None:
    with pytest.raises(Rejected, match="row 2"):
        parse_candles(json.dumps([rest_candle(), rest_candle(**change)]).encode(), "BTCUSDT", "5m")


@pytest.mark.real_data
@pytest.mark.parametrize("day", [date(2019, 10, 11), date(2019, 10, 12)], ids=str)
def test_real_files_parse_and_agree_with_each_other(day: date) -> None:
    root = real_archive() / "data/spot/daily"

    def table(dataset, kind: str, path: str) -> pa.Table:
        zipped = root / path / f"XRPETH-{kind}-{day}.zip"
        return pa.concat_tables(read_archive(ArchiveFile(dataset, "XRPETH", day, zipped, "", 0)))

    trades = table(TRADES, "aggTrades", "aggTrades/XRPETH")
    minutes = table(candles("1m"), "1m", "klines/XRPETH/1m")
    fives = table(candles("5m"), "5m", "klines/XRPETH/5m")
    total = sum(Decimal(repr(q)) for q in trades["quantity"].to_pylist())
    for bars in (minutes, fives):
        assert sum(Decimal(repr(v)) for v in bars["volume"].to_pylist()) == total
        assert max(bars["high"].to_pylist()) == max(trades["price"].to_pylist())
