from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resources.datasets import Partition, candles, to_ms
from streamforge_assets.market.completeness import (
    MAX_SPANS,
    IdScan,
    bounded,
    grid,
    id_scan,
    missing_candles,
    spans,
    subtract,
    without_trades,
)

DAY = Partition("candles_5m", "BTCUSDT", date(2024, 8, 1))
FIVE = candles("5m")
STEP = 300_000


def covered(runs, step=1):
    return {position for run in runs for position in range(run.first, run.last + 1, step)}


@given(st.sets(st.integers(0, 300), min_size=1), st.lists(st.integers(0, 300), max_size=5))
def test_holes_between_ids_are_found_however_the_rows_are_cut(ids, cuts):
    ordered = np.array(sorted(ids), dtype=np.int64)
    scan = IdScan()
    for chunk in np.split(ordered, sorted({min(cut, len(ordered)) for cut in cuts})):
        scan.feed(chunk)
    assert covered(scan.holes) == set(range(min(ids), max(ids) + 1)) - ids
    assert (scan.rows, scan.first, scan.last, scan.ordered) == (len(ids), min(ids), max(ids), True)
    assert all(hole.count == hole.last - hole.first + 1 for hole in scan.holes)


def test_ids_out_of_order_are_noticed_and_a_second_look_sorts_them():
    scan = IdScan()
    scan.feed(np.array([1, 2, 5, 4, 4, 7]))
    assert not scan.ordered
    assert covered(id_scan(np.array([1, 2, 5, 4, 4, 7])).holes) == {3, 6}


@given(st.sets(st.integers(0, 287)))
def test_missing_candles_are_the_grid_without_those_present(present):
    slots = grid(DAY, FIVE)
    missing = missing_candles(slots[sorted(present)], DAY, FIVE)
    assert covered(missing, STEP) == set(slots.tolist()) - set(slots[sorted(present)].tolist())
    assert sum(run.count for run in missing) == 288 - len(present)


def test_a_candle_off_the_grid_does_not_stand_for_one_on_it():
    slots = grid(DAY, FIVE).copy()
    slots[3] += 1
    assert [run.first for run in missing_candles(slots, DAY, FIVE)] == [int(grid(DAY, FIVE)[3])]


def test_an_absent_candle_is_explained_only_when_no_trade_lies_in_it():
    start = to_ms(DAY.start)
    missing = missing_candles(grid(DAY, FIVE)[5:], DAY, FIVE)
    times = np.array([start + 2 * STEP, start + 4 * STEP + 1, start + 6 * STEP])
    explained = without_trades(missing, np.array([7, 8, 9]), times, STEP, "trades")
    assert covered(explained, STEP) == {start, start + STEP, start + 3 * STEP}
    assert covered(subtract(missing, explained, STEP), STEP) == {start + 2 * STEP, start + 4 * STEP}
    assert "trades 7 and 8 follow each other" in explained[1].evidence


def test_a_hole_among_the_trades_explains_no_candle_across_it_but_those_elsewhere():
    start = to_ms(DAY.start)
    missing = missing_candles(grid(DAY, FIVE)[5:], DAY, FIVE)
    times = np.array([start, start + 2 * STEP, start + 4 * STEP])
    explained = without_trades(missing, np.array([7, 9, 10]), times, STEP, "trades")
    assert covered(explained, STEP) == {start + 3 * STEP}


def test_many_spans_are_summed_up_without_losing_the_count():
    runs = spans(np.arange(0, 4 * MAX_SPANS, 2, dtype=np.int64), 1)
    short = bounded(runs)
    assert len(short) == MAX_SPANS
    assert sum(run.count for run in short) == 2 * MAX_SPANS
    assert short[-1].last == runs[-1].last
