import pytest

from resources.errors import Rejected
from resources.settings import load_settings


def test_the_defaults_need_nothing(monkeypatch):
    settings = load_settings()
    assert settings.exchange == "simulated"
    assert settings.intervals == ("5m",)


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("STREAMFORGE_INTERVALS", "1m, 5m,1m")
    monkeypatch.setenv("STREAMFORGE_EXCHANGE", "binance")
    settings = load_settings()
    assert settings.intervals == ("1m", "5m")
    assert settings.rest_address == "https://api.binance.com"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUS", "rabbit"),
        ("INTERVALS", "7m"),
        ("WEIGHT_SHARE", "1.5"),
        ("START_DATE", "soon"),
        ("CONNECTIONS", "many"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(monkeypatch, name, value):
    monkeypatch.setenv(f"STREAMFORGE_{name}", value)
    with pytest.raises(Rejected, match=f"STREAMFORGE_{name} is '{value}'") as refusal:
        load_settings()
    assert "\n" not in str(refusal.value)
