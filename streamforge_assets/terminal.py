"""Tables and the status map for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from resources.datasets import DAY, days
from resources.ledger import LedgerEntry
from streamforge_assets.status import COMPLETE, MISSING, PARTIAL, Series, Status

if TYPE_CHECKING:
    from streamforge_assets.graphs.agreement import EdgeAgreement
    from streamforge_assets.notebook import Graph
    from streamforge_assets.scoreboard import ForecastScore

MARKS = {COMPLETE: ("█", "green"), PARTIAL: ("▒", "yellow"), MISSING: ("·", "bright_black")}
_WORST = [MISSING, PARTIAL, COMPLETE]


def summary_table(entries: Iterable[LedgerEntry]) -> Table:
    """One row for each asset: what was collected, how long its workers took, how fast that was."""
    groups: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.dataset].append(entry)
    table = Table(title="Collected", title_justify="left")
    for name in ("asset", "partitions", "rows", "missing", "explained", "seconds", "rows/s"):
        table.add_column(name, justify="left" if name == "asset" else "right")
    for dataset, group in sorted(groups.items()):
        rows = sum(entry.rows for entry in group)
        seconds = sum(entry.seconds for entry in group)
        cells = (len(group), rows, sum(e.missing_count for e in group), sum(e.explained_count for e in group))
        rate = rows / seconds if seconds else 0.0
        table.add_row(f"market/{dataset}", *(f"{n:,}" for n in cells), f"{seconds:.1f}", f"{rate:,.0f}")
    return table


def forecast_table(scores: Iterable[ForecastScore]) -> Table:
    """One row for each forecaster: IC and R², and their share of the oracle's where there is one."""
    rows = list(scores)
    known = any(score.ic_share is not None for score in rows)
    table = Table(title="Forecasts of the next bar, out of sample", title_justify="left")
    shares = ("share of oracle's IC", "share of oracle's R²") if known else ()
    for name in ("forecaster", "IC", "R²", *shares):
        table.add_column(name, justify="left" if name == "forecaster" else "right")
    for score in rows:
        cells = [f"{score.ic:+.4f}", f"{score.r2:+.2%}"]
        if known:
            cells += [f"{share:.3f}" if share is not None else "" for share in (score.ic_share, score.r2_share)]
        table.add_row(score.name, *cells)
    return table


def edge_sentence(score: EdgeAgreement) -> str:
    """How many edges were found and planted, and how well they agree."""
    return (
        f"edges: {score.found} found, {score.planted} planted; precision {score.precision:.2f}, "
        f"recall {score.recall:.2f}, F1 {score.f1:.2f}"
    )


def edge_table(graph: Graph, most: int) -> Table:
    """The strongest edges of a graph."""
    table = Table(title=f"Strongest {min(most, len(graph.edges))} of {len(graph.edges)} edges on {graph.day}")
    table.title_justify = "left"
    for name in ("leader", "follower", "lag", "weight", "t", "q"):
        table.add_column(name, justify="left" if name in {"leader", "follower"} else "right")
    for row in graph.edges.head(most).itertuples():
        table.add_row(
            str(row.leader), str(row.follower), str(row.lag), f"{row.weight:+.3f}", f"{row.t:+.1f}", f"{row.q:.1e}"
        )
    return table


def status_map(status: Status, width: int) -> Group:
    """A heat map: one row for each dataset and symbol, a mark for each day (or few days, if they are many)."""
    first = min(series.first_day for series in status.series)
    after = max(series.last_day for series in status.series) + DAY
    cells = max(10, width - 62)
    per_mark = -(-(after - first).days // cells)
    legend = "  ".join(f"[{style}]{mark}[/] {state}" for state, (mark, style) in MARKS.items())
    each = "a mark is a day" if per_mark == 1 else f"a mark is {per_mark} days, the worst of them"
    table = Table(box=None, pad_edge=False)
    for name in ("dataset", "symbol", "days", "rows", "missing", "explained"):
        table.add_column(name, justify="left" if name in {"dataset", "symbol"} else "right", no_wrap=True)
    table.add_column("map", no_wrap=True)
    for series in status.series:
        numbers = (series.complete, series.rows, series.missing_rows, series.explained)
        marks = _marks(series, days(first, after), per_mark)
        table.add_row(series.dataset, series.symbol, *(f"{n:,}" for n in numbers), marks)
    return Group(f"{first} to {after - DAY}   {legend}   {each}", table)


def _marks(series: Series, wanted: list[date], per_mark: int) -> Text:
    text = Text()
    for at in range(0, len(wanted), per_mark):
        states = [series.days.get(day, MISSING) for day in wanted[at : at + per_mark]]
        mark, style = MARKS[min(states, key=_WORST.index)]
        text.append(mark, style)
    return text


def console(*, stderr: bool = False) -> Console:
    """The terminal; plain text and enough room when it is not one."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = 160
    return made
