from datetime import date

import pytest

from resources.errors import Rejected
from resources.settings import Settings
from streamforge_assets.request import parse_request

TODAY = date(2024, 9, 1)


def ask(datasets=("trades",), symbols=("BTCUSDT",), start="2024-08-01", end="2024-08-03"):
    return parse_request(datasets, symbols, start, end, Settings(), today=TODAY)


def test_a_request_is_symbols_by_datasets_by_days():
    request = ask(("trades", "candles_5m"), ("BTCUSDT", "ETHUSDT"))
    assert len(request.partitions) == 8
    assert len(set(request.partitions)) == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"datasets": ("tradez",)}, "not a dataset"),
        ({"datasets": ("candles_7m",)}, "not a dataset"),
        ({"datasets": ()}, "no dataset"),
        ({"symbols": ()}, "no symbol"),
        ({"symbols": ("btc/usdt",)}, "not a symbol"),
        ({"symbols": ("../etc",)}, "not a symbol"),
        ({"start": "2024-02-30"}, "not a day"),
        ({"start": "2024-08-05"}, "is empty"),
        ({"end": "2024-09-02"}, "2024-09-01 is not over yet"),
        ({"start": "2023-12-31"}, "STREAMFORGE_START_DATE=2023-12-31"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(Rejected, match=sentence) as refusal:
        ask(**arguments)
    assert "\n" not in str(refusal.value)
