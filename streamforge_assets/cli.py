"""The `streamforge` command: parses, calls the client, prints. Data go to stdout, talk to stderr.

Exit codes: 0 all is well; 1 it could not be done; 2 the command was not understood; 3 some partitions are not
complete; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import stamina.instrumentation
import typer
from typer.exceptions import Abort, Exit, TyperException

from resources.datasets import DAY
from resources.errors import Rejected, StreamForgeError
from resources.settings import load_settings
from streamforge_assets.cli_operations import QueueId, dlq_app, retry_range, workflows_app
from streamforge_assets.request import parse_day
from streamforge_assets.terminal import (
    console,
    edge_sentence,
    edge_table,
    forecast_table,
    status_map,
    summary_table,
)

if TYPE_CHECKING:
    from streamforge_assets.client import Result, StreamForge
    from streamforge_assets.model_client import Trained

NOT_COMPLETE = 3
INTERRUPTED = 130
SHOWN_FAILURES = 20
DEMO_SYMBOLS = 12
DEMO_RANGE = (date(2024, 8, 1), date(2024, 8, 31))
DEMO_FOLDS = 7

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Collect crypto market data, complete and proven, and train models on them. Settings are STREAMFORGE_* "
    "variables or a .env file.",
)
symbols_app = typer.Typer(no_args_is_help=True, help="Choose the symbols to collect.")
exchange_app = typer.Typer(no_args_is_help=True, help="The simulated exchange.")
app.add_typer(symbols_app, name="symbols")
app.add_typer(exchange_app, name="exchange")
app.add_typer(workflows_app, name="workflows")
app.add_typer(dlq_app, name="dlq")

Symbols = Annotated[str, typer.Option("--symbols", help="such as BTCUSDT,ETHUSDT; default: those added")]
From = Annotated[str, typer.Option("--from", metavar="DAY", help="first day (UTC), such as 2024-08-01")]
To = Annotated[str, typer.Option("--to", metavar="DAY", help="day after the last, exclusive")]
DagsterUrl = Annotated[
    str, typer.Option("--dagster-url", envvar="STREAMFORGE_DAGSTER_URL", help="let a running Dagster do the work")
]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="more talk, tracebacks")] = False,
) -> None:
    """Set up logging for every command."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("streamforge").setLevel(logging.DEBUG if verbose else logging.WARNING)
    # A retry that helps is no news; one that does not ends in an error with its cause.
    logging.getLogger("stamina").setLevel(logging.WARNING if verbose else logging.ERROR)
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])


@symbols_app.command("add")
def symbols_add(symbols: list[str]) -> None:
    """Add symbols to those that are collected."""
    _connect().add_symbols(*symbols)
    _say(f"added {', '.join(symbols)}")


@symbols_app.command("list")
def symbols_list() -> None:
    """Print the symbols that are collected."""
    for symbol in _connect().symbols():
        typer.echo(symbol)


@symbols_app.command("remove")
def symbols_remove(symbols: list[str]) -> None:
    """Stop collecting symbols; what is stored of them stays."""
    client = _connect()
    for symbol in symbols:
        client.remove_symbol(symbol)
    _say(f"removed {', '.join(symbols)}; stored data stay")


@app.command()
def backfill(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET...", help="trades, candles_5m, ...")],
    start: From,
    end: To,
    symbols: Symbols = "",
    refresh: Annotated[bool, typer.Option(help="load anew what the exchange has re-published")] = False,
    accept_gaps: Annotated[bool, typer.Option(help="record holes that remain as accepted by you")] = False,
    dagster_url: DagsterUrl = "",
) -> None:
    """Collect datasets over a range of days. Interrupted, the same command goes on where it stopped."""
    client = _connect(dagster_url or None)
    chosen = symbols.split(",") if symbols else None
    result = client.backfill(datasets, chosen, start=start, end=end, refresh=refresh, accept_gaps=accept_gaps)
    _hint_intervals(client, datasets)
    _conclude(result)


@workflows_app.command("retry")
def workflows_retry(queue_id: QueueId, dagster_url: DagsterUrl = "") -> None:
    """Run the work of a workflow that is over once more, as a new one. What is stored complete is not fetched."""
    workflow = retry_range(queue_id)
    _say(f"{workflow.dataset} of {workflow.symbol}, {workflow.start} to {workflow.end} (exclusive)")
    client = _connect(dagster_url or None)
    _conclude(client.backfill([workflow.dataset], [workflow.symbol], start=workflow.start, end=workflow.end))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show what is stored: complete, partial and missing days of each dataset and symbol."""
    found = _connect().status()
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    elif not found.series:
        _say(
            "nothing is stored yet; try: streamforge backfill trades candles_5m --symbols BTCUSDT "
            "--from 2024-08-01 --to 2024-08-03"
        )
    else:
        out = console()
        out.print(status_map(found, out.width))


@app.command()
def export(
    dataset: str,
    start: From,
    end: To,
    out: Annotated[Path, typer.Option("--out", help="file to write: .parquet or .csv")],
    symbols: Symbols = "",
) -> None:
    """Write stored rows to one file."""
    client = _connect()
    chosen = symbols.split(",") if symbols else client.symbols()
    rows = client.export(dataset, chosen, start, end, out)
    _say(f"wrote {rows:,} rows to {out}")


@app.command()
def train(
    start: From,
    end: To,
    symbols: Symbols = "",
    folds: Annotated[
        int, typer.Option(min=0, help="last days to forecast, each by the model of the day before")
    ] = 7,
) -> None:
    """Collect what is missing, then make features, graphs, models and forecasts. Repeated, it does the rest."""
    client = _connect()
    _train(client, symbols.split(",") if symbols else None, parse_day(start), parse_day(end), folds)


@app.command()
def report(
    start: From,
    end: To,
    out: Annotated[Path | None, typer.Option("--out", help="copy the HTML file to this path")] = None,
) -> None:
    """Write the honest report of the forecasts of a range of days as one HTML file."""
    made = _connect().report(start, end)
    if out is not None:
        out.write_text(made.html, encoding="utf-8")
    _say(made.verdict)
    typer.echo(str(out or made.path))


@app.command()
def graph(
    day: Annotated[str, typer.Argument(metavar="DAY", help="such as 2024-08-30")],
    most: Annotated[int, typer.Option(min=1, help="edges to show")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, all edges")] = False,
) -> None:
    """Print the strongest edges between assets on a day."""
    found = _connect().graph(day)
    if as_json:
        typer.echo(found.edges.to_json(orient="records", indent=1))
    else:
        console().print(edge_table(found, most))


@exchange_app.command("serve")
def exchange_serve(
    port: Annotated[int, typer.Option(help="port to listen on")] = 8650,
    symbols: Annotated[int, typer.Option(help="number of symbols; 0: the setting")] = 0,
    seed: Annotated[int, typer.Option(help="seed of the market; -1: the setting")] = -1,
) -> None:
    """Run the simulated exchange in the foreground, on the exchange's own wire."""
    from streamforge_assets.simulator.__main__ import main as serve

    settings = load_settings()
    given = {
        "--port": port,
        "--home": settings.home / "simulator",
        "--symbols": symbols or settings.simulator_symbols,
        "--seed": settings.simulator_seed if seed < 0 else seed,
    }
    raise typer.Exit(serve([str(part) for option in given.items() for part in option]))


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="port of the web UI")] = 3000,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Run Dagster's web UI and daemon on the collected data."""
    from streamforge_assets.simulator.process import start
    from streamforge_assets.web_ui import serve_ui

    settings = load_settings()
    _say(f"the web UI comes up at http://{host}:{port}  (Ctrl-C ends it)")
    if settings.exchange == "simulated":
        exchange = start(settings)
        try:
            serve_ui(settings, host, port)
        finally:
            exchange.stop()
    else:
        serve_ui(settings, host, port)


@app.command("queue-manager")
def queue_manager(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")] = 8700,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    dagster_url: DagsterUrl = "http://127.0.0.1:3000",
) -> None:
    """Serve the HTTP API through which other programs have pipelines run by a Dagster (`streamforge ui`)."""
    if find_spec("uvicorn") is None or find_spec("fastapi") is None:
        raise Rejected(
            "the queue-manager is not installed; install it with: pip install 'streamforge[queue-manager]'"
        )
    from streamforge_assets.queue_manager.serve import serve_queue_manager

    logging.getLogger("streamforge").setLevel(logging.INFO)
    asyncio.run(serve_queue_manager(load_settings(), dagster_url, host, port))


@app.command()
def doctor() -> None:
    """Check the settings and every port; one line each."""
    from streamforge_assets.doctor import examine

    settings = load_settings()

    async def look() -> bool:
        well = True
        async for finding in examine(settings):
            typer.echo(f"{finding.grade:<5} {finding.subject:<10} {finding.text}")
            well = well and finding.grade != "fail"
        return well

    if not asyncio.run(look()):
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Collect 12 symbols x 30 days from the simulated exchange, train on them and report, all in a few minutes."""
    client = _connect(exchange="simulated", simulator_symbols=DEMO_SYMBOLS)
    symbols = client.exchange_symbols()[:DEMO_SYMBOLS]
    start, end = DEMO_RANGE
    trained = _train(client, symbols, start, end, DEMO_FOLDS)
    made = client.report(trained.forecasts[0], end)
    _say(f"{made.verdict}\n\nreport: {made.path}")
    _say(
        "next:\n"
        "  .venv/bin/streamforge status                 what is stored, as a map\n"
        f"  .venv/bin/streamforge graph {end - DAY}       who leads whom\n"
        "  make ui                                      all of it in Dagster's web UI"
    )


def _connect(dagster_url: str | None = None, **settings: object) -> StreamForge:
    # Commands for operators must answer at once, and what a client imports takes a second.
    from streamforge_assets.client import connect

    return connect(dagster_url, **settings)


def _train(client: StreamForge, symbols: list[str] | None, start: date, end: date, folds: int) -> Trained:
    """Collect, train, and print what came of it; ends the command when days could not be made."""
    collected, trained = client.train(symbols, start=start, end=end, folds=folds)
    _show(collected)
    for name, sentence in trained.failures.items():
        _say(f"not complete: {name}: {sentence}")
    if trained.forecasts and "forecasts" not in trained.failures:
        console().print(forecast_table(client.scores(trained.forecasts[0], end)))
        edges = client.edge_score(trained.models[-1])
        if edges is not None:
            typer.echo(edge_sentence(edges))
    if not (collected.complete and trained.complete):
        raise typer.Exit(NOT_COMPLETE)
    return trained


def _conclude(result: Result) -> None:
    _show(result)
    if not result.complete:
        raise typer.Exit(NOT_COMPLETE)


def _show(result: Result) -> None:
    console().print(summary_table(result.entries))
    _say(f"{result.partitions} partitions, {result.rows:,} rows, {result.seconds:.1f} s")
    for partition, sentence in list(result.failures.items())[:SHOWN_FAILURES]:
        _say(f"not complete: {partition}: {sentence}")
    if len(result.failures) > SHOWN_FAILURES:
        _say(f"... and {len(result.failures) - SHOWN_FAILURES} more; `streamforge status` shows all")


def _hint_intervals(client: StreamForge, datasets: list[str]) -> None:
    known = client.settings.intervals
    extra = [
        d.removeprefix("candles_") for d in datasets if d != "trades" and d.removeprefix("candles_") not in known
    ]
    if extra:
        _say(f"to see {', '.join(extra)} in the web UI set STREAMFORGE_INTERVALS={','.join([*known, *extra])}")


def _say(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command and turn whatever ends it into one sentence and an exit code."""
    try:
        code = app(standalone_mode=False)
    except Exit as leave:
        code = leave.exit_code
    except TyperException as error:
        _say(f"streamforge: {error.format_message()}")
        code = error.exit_code
    except StreamForgeError as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            traceback.print_exc()
        _say(f"streamforge: {error}")
        code = 1
    except OSError as error:
        _say(f"streamforge: {error.filename or 'a file'} cannot be used: {error.strerror or error}")
        code = 1
    except (KeyboardInterrupt, Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code by itself
        _say("stopped; nothing that was stored is lost, and the same command goes on from here")
    sys.exit(code)


if __name__ == "__main__":
    main()
