"""Pages of history as they travel: whatever a message holds, it is a page or is refused in one sentence."""

import contextlib
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.bus import Message
from resources.datasets import TRADES, Partition
from resources.errors import Rejected
from resources.pages import DayReport, day_message, decode_day, decode_page, encode_pages, page_number
from resources.store.rows import conform
from tests.contract.rows import trades

PART = Partition("trades", "BTCUSDT", date(2024, 8, 1))
(PAGE,) = encode_pages(trades(range(50)), PART, 1)


def test_pages_come_back_and_are_numbered_from_where_the_last_ones_ended():
    rows = trades(range(60_000))
    pages = list(encode_pages(rows, PART, 1, 7))
    assert [page_number(page) for page in pages] == list(range(7, 7 + len(pages)))
    assert len(pages) > 1
    assert sum(decode_page(page).num_rows for page in pages) == rows.num_rows


def test_a_loader_that_does_not_number_its_pages_is_understood():
    assert page_number(Message(b"", "", {})) is None
    assert decode_day(day_message(DayReport(source="archive"), PART, 1)).pages is None


@pytest.mark.parametrize("number", ["", "first", "-1", "1.0", "²"])
def test_a_page_number_that_is_none_is_refused(number):
    with pytest.raises(Rejected, match="has the number"):
        page_number(Message(b"", "", {"page": number}))


places = st.tuples(st.integers(0, len(PAGE.value) - 1), st.integers(0, 255))


@given(st.lists(places, min_size=1, max_size=4), st.integers(0, len(PAGE.value)))
def test_a_page_that_was_damaged_does_no_more_than_be_refused(damage, length):
    """An exception of another kind would end the connector, and the next one, and the next."""
    value = bytearray(PAGE.value)
    for at, byte in damage:
        value[at] = byte
    for broken in (bytes(value), bytes(value[:length])):
        with contextlib.suppress(Rejected):
            conform(decode_page(Message(broken)), TRADES)
