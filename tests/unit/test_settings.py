import pytest

from resources.bus.kafka import KafkaBus, KafkaConfig
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


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("KAFKA_BOOTSTRAP", "kafka", "'kafka' is not host:port; for example 127.0.0.1:9092"),
        ("KAFKA_BOOTSTRAP", "kafka:9092,kafka:99999", "'kafka:99999' is not host:port"),
        ("KAFKA_SECURITY", "SSL", "'PLAINTEXT' or 'SASL_SSL'"),
        ("KAFKA_PATIENCE", "0", "greater than 0"),
    ],
)
def test_a_wrong_kafka_setting_is_one_sentence_that_names_it(monkeypatch, name, value, advice):
    monkeypatch.setenv(f"STREAMFORGE_{name}", value)
    with pytest.raises(Rejected, match=f"STREAMFORGE_{name} is '{value}'") as refusal:
        load_settings()
    assert advice in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SECURITY": "SASL_SSL"}, "STREAMFORGE_KAFKA_SECURITY=SASL_SSL needs a user: set STREAMFORGE_KAFKA_USER"),
        ({"SECURITY": "SASL_SSL", "USER": "worker"}, "STREAMFORGE_KAFKA_PASSWORD_FILE"),
        ({"USER": "worker"}, "set STREAMFORGE_KAFKA_SECURITY=SASL_SSL"),
        ({"PASSWORD": "a", "PASSWORD_FILE": "/b"}, "are both set; keep one"),
        ({"PASSWORD_FILE": "/nowhere/password"}, "STREAMFORGE_KAFKA_PASSWORD_FILE is /nowhere/password"),
    ],
)
def test_kafka_settings_that_do_not_fit_together_are_one_sentence(monkeypatch, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(f"STREAMFORGE_KAFKA_{name}", value)
    with pytest.raises(Rejected) as refusal:
        KafkaConfig.of(load_settings())
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def test_a_ca_file_that_is_none_is_refused_by_name(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    config = KafkaConfig(("127.0.0.1:9",), "SASL_SSL", "worker", "secret", ca_file=file)
    with pytest.raises(Rejected, match=f"STREAMFORGE_KAFKA_CA_FILE is {file}"):
        async with KafkaBus(config):
            pass


def test_a_password_never_shows(monkeypatch):
    monkeypatch.setenv("STREAMFORGE_KAFKA_PASSWORD", "secret")
    settings = load_settings()
    config = KafkaConfig.of(settings)
    assert config.password == "secret"
    assert "secret" not in f"{settings!r} {settings} {config!r} {config} {settings.model_dump_json()}"
