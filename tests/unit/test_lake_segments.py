"""The lake's file names: what counts after any crash."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import Rejected
from resources.store.segments import (
    DayFiles,
    Segment,
    base_name,
    delta_name,
    folder_of,
    next_generation,
    parse_name,
    resolve,
)

DAY = date(2024, 8, 1)


def base(generation: int) -> Segment:
    return Segment(f"b{generation}", str(DAY), generation, 0, 0, 1, 10)


def delta(generation: int, first: int, last: int) -> Segment:
    return Segment(f"d{generation}.{first}-{last}", str(DAY), generation, first, last, 1, 10)


@given(st.dates(), st.integers(0, 10**16 - 1), st.integers(1, 999), st.integers(0, 999), st.integers(0, 10**7))
def test_names_survive_the_round_trip(day: date, generation: int, first: int, more: int, rows: int) -> None:
    assert parse_name(base_name(day, generation, rows)) == (str(day), generation, 0, 0, rows)
    name = delta_name(day, generation, first, first + more, rows)
    assert parse_name(name) == (str(day), generation, first, first + more, rows)


@pytest.mark.parametrize("name", [".lock", ".0a.tmp", "2024-08-01.parquet", "2024-08-01.12.3rows.parquet", "x"])
def test_other_names_are_ignored(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize(
    ("files", "alive"),
    [
        ([], []),
        ([delta(1, 1, 1)], []),
        ([base(1)], ["b1"]),
        ([base(2), base(1), base(3)], ["b3"]),
        ([delta(1, 2, 2), base(1), delta(1, 1, 1)], ["b1", "d1.1-1", "d1.2-2"]),
        ([base(1), delta(1, 1, 1), base(2), delta(1, 2, 2), delta(2, 1, 1)], ["b2", "d2.1-1"]),
        ([base(1), *(delta(1, i, i) for i in range(1, 6)), delta(1, 3, 5)], ["b1", "d1.1-1", "d1.2-2", "d1.3-5"]),
        ([base(1), delta(1, 1, 2), delta(1, 1, 4), delta(1, 3, 4), delta(1, 5, 5)], ["b1", "d1.1-4", "d1.5-5"]),
    ],
)
def test_the_newest_base_and_its_own_deltas_count(files: list[Segment], alive: list[str]) -> None:
    found, dead = resolve(files)
    assert [segment.path for segment in (found.segments if found else ())] == alive
    assert sorted(s.path for s in dead) == sorted({s.path for s in files} - set(alive))


def test_versions_tell_every_state_apart() -> None:
    states = [DayFiles(base(1)), DayFiles(base(2)), DayFiles(base(1), (delta(1, 1, 1),))]
    assert len({state.version for state in states}) == 3


def test_a_generation_grows_even_when_the_clock_went_back() -> None:
    ahead = base(10**16 - 2)
    assert next_generation(DayFiles(ahead)) == 10**16 - 1


@pytest.mark.parametrize("symbol", ["BTCUSDT", "1000SATSUSDT", "BTCUSDT_240927", "币安人生USDT"])
def test_real_symbols_have_folders(symbol: str) -> None:
    assert folder_of(Path("lake"), "trades", symbol) == Path("lake/trades") / symbol


@pytest.mark.parametrize("symbol", ["", ".", "..", "a/b", "a\\b", "a b", "\n", "é" * 65])
def test_a_symbol_cannot_leave_its_folder(symbol: str) -> None:
    with pytest.raises(Rejected):
        folder_of(Path("lake"), "trades", symbol)
