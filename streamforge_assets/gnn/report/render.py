"""From numbers to one self-contained page: no script, no network, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamforge_assets.gnn.report import (
    figures_graph,
    figures_skill,
    figures_study,
    figures_use,
)
from streamforge_assets.gnn.report import wording as say
from streamforge_assets.gnn.report.assess import ORACLE, Assessment, assess
from streamforge_assets.gnn.report.data import ReportData
from streamforge_assets.gnn.report.drawing import Drawing

FIGURES: tuple[Callable[[ReportData, Assessment], Drawing], ...] = (
    figures_graph.adjacency,
    figures_graph.recovery,
    figures_skill.oracle_share,
    figures_skill.cumulative_gain,
    figures_skill.ic_over_time,
    figures_use.calibration,
    figures_use.accuracy,
    figures_skill.decay,
    figures_use.costs,
    figures_use.ablations,
    figures_graph.stability,
    figures_study.regimes,
    figures_study.training,
    figures_study.throughput,
    figures_study.build_time,
    figures_study.null_leak,
)
"""The sixteen figures of gnn.md §5, in order."""


@dataclass(frozen=True)
class Table:
    """A table ready for the page: `marked` rows stand out."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()


def render_report(data: ReportData, found: Assessment | None = None) -> str:
    """The report as one HTML page.

    Args:
        data: what to show.
        found: what `assess(data)` found, to save doing it twice.

    Raises:
        Rejected: when `assess` refuses the numbers.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    found = assess(data) if found is None else found
    place = Environment(
        loader=PackageLoader("streamforge_assets.gnn", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return place.get_template("template.html.jinja").render(
        data=data,
        found=found,
        split=figures_study.split(data, found),
        figures=[figure(data, found) for figure in FIGURES],
        tables=[table for table in (signal_table(data, found), use_table(data, found)) if table],
        fold_table=fold_table(data, found),
        card=card_table(data, found),
        run=run_table(data),
        seeds=seed_table(data),
        targets=target_table(data),
        svg=Markup,
    )


def signal_table(data: ReportData, found: Assessment) -> Table | None:
    """Every forecast's signal, with block-bootstrap intervals."""
    if found.evaluation is None:
        return None
    rows, oracle = [], found.oracle
    for row in found.evaluation.scores:
        share = say.percent(row.ic.value / oracle.ic.value) if oracle and oracle.ic.value > 0 else say.DASH
        gain, gap = row.reference_gain, row.best_gap
        rows.append(
            (
                row.name,
                say.bracket(row.ic),
                say.number(row.ic.t, 2),
                *([share] if oracle else []),
                say.DASH if gain is None else say.bracket(gain),
                say.DASH if gap is None else say.bracket(gap),
                f"{say.percent(row.r2.value, 2)}\n[{say.percent(row.r2.low, 2)}, {say.percent(row.r2.high, 2)}]",
            )
        )
    head = (
        "forecast",
        "mean IC",
        "t",
        *(["of the oracle's IC"] if found.oracle else []),
        "model minus this",
        "this minus best baseline",
        "R² against 0",
    )
    best = found.evaluation.best_baseline
    caption = (
        "Signal. In brackets 95\u00a0% intervals of a stationary block bootstrap:"
        f" {found.evaluation.resamples:,} resamples, mean block {say.number(found.evaluation.block)} bars,"
        " differences paired by bar."
        + (f" Best baseline: {best}, chosen on these very bars, which favours the baselines." if best else "")
        + " The intervals are not corrected for the number of comparisons."
    )
    marked = [index for index, row in enumerate(found.evaluation.scores) if row.name == data.model]
    return Table(caption, head, tuple(rows), tuple(marked))


def use_table(data: ReportData, found: Assessment) -> Table | None:
    """Every forecast's ranks, directions, calibration and portfolio."""
    if found.evaluation is None:
        return None
    rows = []
    for row in found.evaluation.scores:
        book, slope = row.portfolio, row.slope
        at = {point.cost_bp: point for point in book.net}
        rows.append(
            (
                row.name,
                say.ic(row.rank_ic.value),
                say.ic(row.scaled_ic.value),
                say.fixed(row.icir, 3),
                say.percent(row.accuracy.value) if row.accuracy else say.DASH,
                say.DASH if row.auc is None else say.fixed(row.auc, 3),
                f"{say.fixed(slope.slope, 2)} ± {say.fixed(1.96 * slope.error, 2)}" if slope else say.DASH,
                say.number(book.turnover) if book.turnover else say.DASH,
                say.number(book.breakeven_bp, 2),
                *(
                    say.number(point.sharpe, 2) if book.turnover else say.DASH
                    for point in (at.get(0.0), at.get(5.0))
                    if point
                ),
            )
        )
    head = (
        "forecast",
        "rank IC",
        "IC / sigma",
        "ICIR per bar",
        "right signs",
        "AUC of sign",
        "slope",
        "turnover",
        "breakeven, bp",
        "Sharpe, free",
        "Sharpe, 5 bp",
    )
    rule = found.evaluation.scores[0].portfolio.rule
    caption = (
        f"Ranks, signs, sizes and use. Portfolio: {rule}; Sharpe ratios are yearly and count no spread, impact"
        " or funding. A forecast that never prefers anything has no entry. Assets without a usable next"
        " return are left out, which a trader could not know beforehand."
    )
    marked = [index for index, row in enumerate(found.evaluation.scores) if row.name == data.model]
    return Table(caption, head, tuple(rows), tuple(marked))


def fold_table(data: ReportData, found: Assessment) -> Table | None:
    """One row per fold."""
    if not found.folds:
        return None
    seconds = {fold.label: fold.seconds for fold in data.folds}
    rows = tuple(
        (
            fold.label,
            f"{fold.bars:,}",
            say.bracket(fold.ic),
            say.DASH if fold.baseline is None else say.ic(fold.baseline),
            say.DASH if fold.edges is None else str(fold.edges),
            say.number(fold.f1),
            say.duration(seconds.get(fold.label)),
        )
        for fold in found.folds
    )
    best = found.best_baseline or "baseline"
    head = ("fold", "bars", f"IC of {data.model}", f"IC of {best}", "edges", "edge F1", "training, CPU")
    return Table("Fold by fold. Edge F1 only where the true graph is known.", head, rows)


def card_table(data: ReportData, found: Assessment) -> list[tuple[str, str]]:
    """The data card as pairs of name and value."""
    card, stacked = data.card, found.stacked
    rows = [("Source", card.source), ("Bar", card.interval)]
    if stacked is not None and len(stacked.times):
        first, last = (
            np.datetime64(int(end), "us").astype("datetime64[m]")
            for end in (stacked.times.min(), stacked.times.max())
        )
        cells = stacked.mask.size
        rows += [
            ("Symbols", f"{len(stacked.symbols)}: {', '.join(stacked.symbols)}"),
            (
                "Test span",
                f"{str(first).replace('T', ' ')} to {str(last).replace('T', ' ')} UTC, {len(stacked.times):,}"
                " bars",
            ),
            (
                "Pairs of bar and symbol used",
                f"{int(stacked.mask.sum()):,} of {cells:,} ({say.percent(stacked.mask.sum() / cells)})",
            ),
        ]
    rows.append(("Gaps", "; ".join(card.gaps) if card.gaps else "none recorded"))
    if card.no_trade_share:
        worst = sorted(card.no_trade_share.items(), key=lambda item: -item[1])
        mean = float(np.mean([share for _, share in worst]))
        shown = ", ".join(f"{symbol} {say.percent(share)}" for symbol, share in worst[:5])
        rows.append(("Bars without trades", f"{say.percent(mean)} on average; most: {shown}"))
    else:
        rows.append(("Bars without trades", "not recorded"))
    left = "; ".join(f"{item.symbol}: {item.why}" for item in card.left_out)
    rows.append(("Left out", left or "no symbol"))
    rows += [(f"Hash of {name}", digest) for name, digest in card.hashes.items()]
    return rows


def run_table(data: ReportData) -> list[tuple[str, str]]:
    """How it was made, as pairs of name and value."""
    run = data.run
    rows = [
        ("Configurations tried", f"{run.configurations:,}"),
        ("Training seeds", ", ".join(map(str, run.seeds)) or "not recorded"),
        ("Bootstrap seed", str(data.seed)),
        ("CPU time", say.duration(run.cpu_seconds)),
        ("Hardware", run.hardware),
        ("Commit", run.commit),
        ("Made", run.made_at),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "not recorded"),
    ]
    rows += [(f"Setting {name}", str(value)) for name, value in run.configuration.items()]
    return rows


def seed_table(data: ReportData) -> Table | None:
    """The model's scores by seed, their mean and spread."""
    if not data.seed_scores:
        return None
    ics, r2s = np.array([row.ic for row in data.seed_scores]), np.array([row.r2 for row in data.seed_scores])
    rows = [(str(row.seed), say.ic(row.ic), say.percent(row.r2, 2)) for row in data.seed_scores]
    if len(rows) > 1:
        spread = (say.number(float(ics.std(ddof=1)), 2), say.percent(float(r2s.std(ddof=1)), 2))
        rows += [
            ("mean", say.ic(float(ics.mean())), say.percent(float(r2s.mean()), 2)),
            ("standard deviation", *spread),
        ]
    return Table("The model from different seeds.", ("seed", "mean IC", "R² against 0"), tuple(rows))


def target_table(data: ReportData) -> Table | None:
    """Promised and reached."""
    if not data.targets:
        return None
    rows = tuple(
        (
            row.name,
            f"{'≥' if row.higher_is_better else '≤'} {say.number(row.wanted)}",
            say.number(row.reached),
            "met" if row.met else "missed",
        )
        for row in data.targets
    )
    missed = tuple(index for index, row in enumerate(data.targets) if not row.met)
    return Table("Targets set beforehand.", ("target", "wanted", "reached", "result"), rows, missed)


__all__ = ["FIGURES", "ORACLE", "Table", "render_report"]
