"""The `streamforge` command as a user types it: what it prints, what it refuses, and its exit codes."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pyarrow.parquet as pq
import pytest

from tests.simulated import SYMBOL

pytestmark = pytest.mark.e2e

DAY = ["--symbols", SYMBOL, "--from", "2024-08-01", "--to", "2024-08-02"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["status", "--frob"], "No such option: --frob"),
        (["backfill", "trades", "--from", "2024-08-01"], "Missing option '--to'"),
        (["backfill", "--from", "2024-08-01", "--to", "2024-08-02"], "Missing argument"),
        (["ui", "--port", "many"], "Invalid value for '--port'"),
        (["train", "--from", "2024-08-01"], "Missing option '--to'"),
        (["train", *DAY, "--folds", "-1"], "Invalid value for '--folds'"),
        (["graph"], "Missing argument"),
    ],
)
def test_a_command_that_is_not_understood_is_one_sentence_and_code_2(command, words, sentence):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["backfill", "nonsense", *DAY], "'nonsense' is not a dataset"),
        (["backfill", "candles_7m", *DAY], "7m"),
        (["backfill", "trades", "--from", "2024-08-01", "--to", "2024-08-02"], "symbols"),
        (["backfill", "trades", *DAY[:3], "2024-08-05", "--to", "2024-08-02"], "end is exclusive"),
        (["backfill", "trades", *DAY[:3], "1 August", "--to", "2024-08-02"], "'1 August' is not a day"),
        (["backfill", "trades", *DAY[:3], "2024-02-30", "--to", "2024-03-02"], "'2024-02-30' is not a day"),
        (["backfill", "trades", "--symbols", "NOPEUSDT", *DAY[2:]], "does not trade NOPEUSDT"),
        (
            ["backfill", "trades", *DAY[:3], "2020-08-01", "--to", "2020-08-02"],
            "STREAMFORGE_START_DATE=2020-08-01",
        ),
        (["backfill", "trades", *DAY[:3], "2094-08-01", "--to", "2094-08-02"], "2094-08-01 is not over yet"),
        (["backfill", "trades", *DAY, "--dagster-url", "http://127.0.0.1:9"], "no Dagster answers at"),
        (["train", *DAY], "a model needs 21 days and one before them, and there are 1"),
        (["train", *DAY[:3], "yesterday", "--to", "2024-08-02"], "'yesterday' is not a day"),
        (["graph", "2024-08-01"], "there is no graph of 2024-08-01"),
        (["report", *DAY[2:]], "there are no forecasts of 2024-08-01"),
        (["symbols", "add", "btc!"], "'btc!' is not a symbol"),
        (["symbols", "add", "NOPEUSDT"], "does not trade NOPEUSDT"),
        (["symbols", "remove", "NOPEUSDT"], "NOPEUSDT is not collected"),
        (["export", "trades", *DAY, "--out", "/tmp/rows.txt"], ".parquet and .csv can"),
        (["export", "trades", *DAY, "--out", "/nonexistent/rows.csv"], "/nonexistent/rows.csv cannot be written"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence_and_nothing_is_stored(command, at_exchange, words, sentence):
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.startswith("streamforge: ")
    assert err.count("\n") == 1
    assert not list((at_exchange.home / "lake").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("STREAMFORGE_BUS", "nonsense", "STREAMFORGE_BUS is 'nonsense'"),
        ("STREAMFORGE_WEIGHT_SHARE", "7", "STREAMFORGE_WEIGHT_SHARE is '7'"),
        ("STREAMFORGE_INTERVALS", "5m,7m", "STREAMFORGE_INTERVALS"),
        ("STREAMFORGE_MODEL_INTERVAL", "7m", "STREAMFORGE_MODEL_INTERVAL is '7m'"),
        ("STREAMFORGE_DEVICE", "tpu", "STREAMFORGE_DEVICE is 'tpu'"),
        ("STREAMFORGE_ARCHIVE_URL", "ftp://somewhere", "STREAMFORGE_ARCHIVE_URL"),
    ],
)
def test_a_broken_setting_is_one_sentence_that_names_it(command, monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    code, out, err = command("status")
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["backfill", "trades", *DAY], ["status"], ["symbols", "list"]])
def test_a_home_that_cannot_be_written_is_one_sentence_that_names_the_setting(
    command, at_exchange, monkeypatch, tmp_path, words
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMFORGE_HOME", str(tmp_path / "file" / "home"))
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert "STREAMFORGE_HOME" in err
    assert err.count("\n") == 1


def test_what_was_collected_shows_in_status_and_goes_out_as_a_file(command, at_exchange, tmp_path):
    code, _, err = command("backfill", "trades", "candles_5m", *DAY)
    assert code == 0, err
    assert "2 partitions" in err

    code, out, _ = command("status", "--json")
    found = {(item["dataset"], item["symbol"]): item for item in json.loads(out)}
    assert code == 0
    assert found["candles_5m", SYMBOL]["rows"] + found["candles_5m", SYMBOL]["explained"] == 288
    assert found["trades", SYMBOL]["days"] == {"2024-08-01": "complete"}

    target = tmp_path / "rows.parquet"
    code, _, err = command("export", "trades", *DAY, "--out", str(target))
    assert code == 0
    assert f"wrote {pq.read_metadata(target).num_rows:,} rows" in err
    assert pq.read_metadata(target).num_rows == found["trades", SYMBOL]["rows"]


def test_symbols_are_added_listed_and_removed(command, at_exchange):
    assert command("symbols", "add", SYMBOL)[0] == 0
    assert command("symbols", "list")[1] == f"{SYMBOL}\n"
    assert command("symbols", "remove", SYMBOL)[0] == 0
    assert command("symbols", "list")[1] == ""


def test_the_doctor_tries_every_part_and_names_the_one_that_is_down(command, at_exchange, monkeypatch):
    code, out, _ = command("doctor")
    assert code == 0, out
    subjects = [line.split()[1] for line in out.splitlines()]
    assert subjects == ["settings", "home", "bus", "store", "artifacts", "archive", "rest", "dagster", "launcher"]
    monkeypatch.setenv("STREAMFORGE_ARCHIVE_URL", "http://127.0.0.1:9/archive")
    code, out, _ = command("doctor")
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("fail")]
    assert line.split()[1] == "archive"
    assert "127.0.0.1:9" in line


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("[]", "is no Dagster"),
        ('{"data": null}', "is no Dagster"),
        ("<html>", "no Dagster answers at"),
        ('{"errors": [{"message": "Syntax Error"}]}', "Syntax Error"),
        ('{"data": {"repositoriesOrError": {"__typename": "PythonError"}}}', "has no asset market/trades"),
    ],
)
def test_a_dagster_that_answers_nonsense_is_one_sentence(command, at_exchange, httpserver, answer, sentence):
    url = httpserver(answer)
    code, out, err = command("backfill", "trades", *DAY, "--dagster-url", url)
    assert (code, out) == (1, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.fixture
def httpserver():
    """Start a server that answers every POST with one text."""
    servers: list[HTTPServer] = []

    def start(answer: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
