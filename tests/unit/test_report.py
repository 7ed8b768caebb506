import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from resources.errors import Rejected
from streamforge_assets.gnn.report.assess import assess
from streamforge_assets.gnn.report.data import (
    Ablation,
    BuildTime,
    Check,
    DataCard,
    Fold,
    LeftOut,
    NullLeak,
    RecoveryCurve,
    RegimeRecovery,
    ReportData,
    RunCard,
    SeedScore,
    Span,
    Target,
    Throughput,
    precision_recall,
)
from streamforge_assets.gnn.report.figures_skill import oracle_share
from streamforge_assets.gnn.report.render import FIGURES, render_report
from streamforge_assets.graphs.graph import AssetGraph

STEP, DAY = 300_000_000, 86_400_000_000
VOID = {"meta", "br", "hr", "img", "link", "input"}


def graph_of(symbols: tuple[str, ...], matrix: np.ndarray) -> AssetGraph:
    follower, leader = np.nonzero(matrix)
    weight = matrix[follower, leader]
    some = np.full(len(weight), 0.01)
    n = len(symbols)
    return AssetGraph(
        symbols, leader, follower, np.ones(len(weight), dtype=np.int64), weight, weight / 0.01, some, some,
        np.zeros((1, n)), np.zeros((0, 2), dtype=np.int64), np.zeros(0),
    )  # fmt: skip


def make_folds(
    *,
    n: int = 12,
    bars: int = 400,
    folds: int = 3,
    signal: float = 0.3,
    truth: bool = True,
    better: str = "gnn",
) -> tuple[Fold, ...]:
    """Folds of a market that follows a planted graph; `better` is the forecast nearest to the truth."""
    rng = np.random.default_rng(5)
    symbols = tuple(f"A{index:02d}USDT" for index in range(n))
    planted = (rng.random((n, n)) < 0.2) & ~np.eye(n, dtype=bool)
    planted[1:, 0] |= n > 1
    weight = np.where(planted, rng.choice([-1.0, 1.0], (n, n), p=[0.25, 0.75]), 0.0)
    made = []
    for index in range(folds):
        times = np.arange(bars, dtype=np.int64) * STEP + (20 + index) * DAY
        sigma = 2e-3 * np.exp(0.3 * rng.normal(size=(bars, n)))
        z = rng.standard_t(5, size=(bars + 1, n)) / np.sqrt(5 / 3)
        expected = np.zeros((bars, n))
        for t in range(bars):
            drive = np.tanh(weight @ z[t] / max(np.sqrt(weight.any(axis=1).mean() * 3), 1))
            expected[t] = signal * (drive if n > 1 else 0.8 * np.tanh(z[t]))
            z[t + 1] += expected[t]
        mu = expected * sigma
        noise = rng.normal(size=(6, bars, n)) * sigma
        near, far = 0.9 * mu + 0.03 * noise[0] * (signal > 0), 0.5 * mu + 0.1 * noise[1]
        forecasts = {
            "gnn": near if better == "gnn" else far,
            "zero": np.zeros_like(mu),
            "AR ridge": 0.02 * noise[2] + 0.1 * mu,
            "VAR ridge": 0.1 * noise[3] + 0.4 * mu,
            "sparse VAR": near if better == "sparse VAR" else far,
            "persistence": z[:-1] * sigma,
        }
        mask = rng.random((bars, n)) > 0.02
        found = np.where(rng.random((n, n)) < 0.93, weight, 0.0)
        found[0, n - 1] = found[0, n - 1] or 0.3 * (n > 1)
        epochs = np.arange(1, 15)
        day = (20 + index) * DAY
        made.append(
            Fold(
                f"2024-08-{26 + index}", symbols, times, forecasts, z[1:] * sigma, sigma, mask,
                oracle=mu if truth else None,
                graph=graph_of(symbols, 0.1 * found),
                planted=planted if truth else None,
                history={
                    "loss": 1 - 0.05 * (1 - np.exp(-epochs / 4)),
                    "validation_loss": 1 - 0.04 * (1 - np.exp(-epochs / 3)) + 0.0004 * epochs,
                    "lr": 3e-3 * np.sin(np.pi * epochs / 15),
                    "grad_norm": np.exp(-epochs / 8.0),
                },
                spans=(
                    Span("train", (index) * DAY, day - DAY),
                    Span("purge", day - DAY, day - DAY + 6 * 12 * STEP),
                    Span("validation", day - DAY + 6 * 12 * STEP, day - 12 * STEP),
                    Span("purge", day - 12 * STEP, day),
                    Span("test", day, day + bars * STEP),
                ),
                seconds=2.3,
            )
        )  # fmt: skip
    return tuple(made)


CARD = DataCard(
    "simulated exchange",
    "5m",
    gaps=("2024-08-12 03:00 to 03:40, A03USDT",),
    no_trade_share={"A00USDT": 0.001, "A07USDT": 0.08},
    hashes={"panel": "9f" * 32},
    left_out=(LeftOut("DOGEUSDT", "coverage 61 %, 95 % is needed"),),
)
RUN = RunCard(
    configurations=14,
    seeds=(1, 2, 3),
    cpu_seconds=131.0,
    hardware="2 vCPU, 1 thread",
    commit="bbdcc83",
    versions={"numpy": "2.4"},
    configuration={"lookback": 4, "hidden": 32},
    made_at="2026-11-23 12:00 UTC",
)


def full(**changes: object) -> ReportData:
    folds = changes.pop("folds", None) or make_folds()
    n = len(folds[0].symbols)
    rng = np.random.default_rng(1)
    truth = folds[0].planted if folds[0].planted is not None else np.zeros((n, n), dtype=bool)
    r2 = (0.002, 0.005, 0.01, 0.02, 0.05)
    sizes = (20, 50, 100, 500)
    data = ReportData(
        title="StreamForge: forecasts of 2024-08-26 to 2024-08-28",
        folds=folds,
        card=CARD,
        run=RUN,
        seed_scores=tuple(SeedScore(seed, 0.21 + 0.002 * seed, 0.04) for seed in (1, 2, 3)),
        ablations=(
            Ablation("edges reversed", 0.02, 0.19, 0.17, 0.21),
            Ablation("graph shuffled", 0.01, 0.2, 0.18, 0.22),
            Ablation("no graph", 0.03, 0.18, 0.16, 0.2),
            Ablation("no gate", 0.208, 0.002, -0.004, 0.008),
        ),
        checks=(
            Check("future perturbation", True, "all outputs up to t are bit-equal."),
            Check("power", False, "too short."),
        ),
        targets=(Target("edge F1, N = 50", 0.98, 0.97), Target("builder, s", 0.5, 0.41, higher_is_better=False)),
        precision_recall=(
            precision_recall("VAR, HC0", truth + rng.normal(size=(n, n)) * 0.3, truth),
            precision_recall("lagged correlation", truth + rng.normal(size=(n, n)), truth),
        ),
        recovery_by_signal=(
            RecoveryCurve("VAR, HC0", r2, (0.01, 0.41, 0.79, 0.93, 0.97)),
            RecoveryCurve("factor removed", r2, (0.1, 0.58, 0.7, 0.6, 0.4)),
        ),
        recovery_by_bars=(RecoveryCurve("VAR, HC0", (1440, 2880, 8640, 43200), (0.65, 0.87, 0.97, 0.98)),),
        throughput=(
            Throughput("dense adjacency", sizes, (19788, 16812, 9941, 919)),
            Throughput("one window per step", sizes, (529, 689, 671, 329)),
        ),
        build_times=(
            BuildTime("VAR, HC0", sizes, (0.003, 0.01, 0.04, 0.69)),
            BuildTime("loop over pairs", (20, 100), (0.5, 11.7)),
        ),
        regimes=(
            RegimeRecovery("static", (-2000, -1000, 0, 1000, 2880, 5760), (0.98, 0.98, 0.1, 0.05, 0.04, 0.04)),
            RegimeRecovery(
                "rolling 2880", (-2000, -1000, 0, 1000, 2880, 5760), (0.97, 0.97, 0.2, 0.5, 0.96, 0.97)
            ),
        ),
        null_leaks=(
            NullLeak("this pipeline", 0.0006, -0.004, 0.005, 0.3, honest=True),
            NullLeak("graph of the full sample", 0.023, 0.016, 0.03, 6.9),
            NullLeak("graph and weights of the full sample", 0.05, 0.043, 0.057, 14.0),
        ),
    )
    return replace(data, **changes)


class Page(HTMLParser):
    """Follows the tags of a page; every one opened must be closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"href", "src", "xlink:href"}:
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def check_page(html: str) -> Page:
    page = Page(html)
    assert not page.open
    assert not page.wrong
    assert "script" not in page.tags
    assert not re.search(r"(https?:)?//\w", re.sub(r"data:image/png;base64,[\w+/=\s]+", "", html))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    for number_ in range(1, 17):
        assert f"Figure {number_}. " in html
    assert len(html.encode()) < 4_000_000
    return page


@pytest.fixture(scope="module")
def whole() -> str:
    return render_report(full())


def test_the_whole_report_is_one_well_formed_page_with_every_figure_drawn(whole):
    page = check_page(whole)
    text = " ".join(page.words)
    assert "Absent:" not in text
    assert text.count("How to read:") == 17
    assert whole.count('role="img"') >= 17
    assert "The model beats the best baseline, sparse VAR, by" in text
    assert "of what a perfect forecaster" in text


def test_what_did_not_work_is_listed(whole):
    for words in (
        "Ablation “no gate” makes no difference",
        "Check failed, power: too short.",
        "Target missed, edge F1, N = 50: 0.970 where at least 0.980 was set.",
        "Only 3 training seeds recorded",
        "Symbols asked for and left out: DOGEUSDT.",
        "bp per unit traded the long-short portfolio loses money",
    ):
        assert words in whole


def test_the_same_data_give_the_same_page():
    data = ReportData("twice", make_folds(n=4, bars=60, folds=1), CARD, RUN)
    assert render_report(data) == render_report(data)


def test_without_truth_the_bars_are_ic_and_only_the_recovered_graph_is_drawn():
    html = render_report(ReportData("no truth", make_folds(truth=False), CARD, RUN))
    check_page(html)
    assert "nobody knows the true one" in html
    assert "share of the oracle&#39;s" not in html
    assert "So high an IC on real data is more often a leak than skill" in html


def test_noise_gets_no_evidence_and_no_praise():
    folds = make_folds(truth=False, signal=0.0)
    rng = np.random.default_rng(8)
    noise = [{**fold.forecasts, "gnn": rng.normal(size=fold.mask.shape) * fold.sigma} for fold in folds]
    folds = tuple(replace(fold, forecasts=said) for fold, said in zip(folds, noise, strict=True))
    data = ReportData("noise", folds, DataCard("test", "5m"), RUN)
    found = assess(data)
    assert found.verdict.tone == "none"
    assert found.verdict.headline.startswith("No evidence of skill")
    assert "contains 0" in found.verdict.headline
    assert "this is no evidence of skill" in oracle_share(data, found).says


def test_forecasts_of_nothing_but_zero_are_no_skill_and_break_no_figure():
    folds = tuple(
        replace(fold, forecasts={name: np.zeros_like(fold.sigma) for name in ("gnn", "zero")})
        for fold in make_folds()
    )
    data = ReportData("zeros", folds, DataCard("test", "5m"), RunCard())
    html = render_report(data)
    check_page(html)
    assert assess(data).verdict.headline == "No evidence of skill: the model forecasts 0 everywhere."
    assert "so it never takes a side" in html


def test_a_baseline_that_wins_is_said_first():
    found = assess(full(folds=make_folds(better="sparse VAR")))
    assert found.verdict.tone == "beaten"
    assert found.verdict.headline.startswith("The model is beaten: the baseline sparse VAR")
    assert any("Baseline sparse VAR beats the model" in line for line in found.negatives)


def test_a_model_as_good_as_its_baseline_has_no_edge():
    folds = tuple(
        replace(fold, forecasts={**fold.forecasts, "gnn": 1.0001 * fold.forecasts["sparse VAR"]})
        for fold in make_folds()
    )
    assert assess(full(folds=folds)).verdict.headline.startswith("No edge found over the best baseline")


@pytest.mark.parametrize("n", [1, 2])
def test_one_fold_of_few_symbols_renders(n):
    data = ReportData("few", make_folds(n=n, bars=120, folds=1, truth=False), DataCard("test", "1m"), RUN)
    html = render_report(data)
    check_page(html)
    assert "is not defined" in html
    assert "Absent: fewer than two folds carry a graph." in html


def test_nothing_but_studies_renders():
    data = replace(full(), folds=())
    page = check_page(render_report(data))
    assert "No forecasts to judge." in " ".join(page.words)


def test_a_fold_without_graph_history_spans_or_baselines_renders():
    fold = make_folds(folds=1)[0]
    bare = replace(
        fold, forecasts={"gnn": fold.forecasts["gnn"]}, graph=None, planted=None, oracle=None, history={}, spans=()
    )
    html = render_report(ReportData("bare", (bare,), DataCard("test", "5m"), RunCard()))
    check_page(html)
    for words in (
        "no fold carries a graph", "no baseline was run", "no training history", "how their time was divided",
        "no ablations were run", "was not studied", "was not measured", "was not timed", "was not run",
    ):  # fmt: skip
        assert words in html


def test_folds_of_different_symbols_are_stacked_by_name():
    first, second = make_folds(folds=2)
    order = [3, 1, 2, 0, 5]
    narrow = replace(
        second,
        symbols=tuple(second.symbols[i] for i in order),
        forecasts={name: values[:, order] for name, values in second.forecasts.items()},
        realised=second.realised[:, order], sigma=second.sigma[:, order], mask=second.mask[:, order],
        oracle=None, graph=None, planted=None,
    )  # fmt: skip
    found = assess(full(folds=(first, narrow)))
    assert found.stacked is not None
    bars = len(first.times)
    assert (found.stacked.realised[bars:, 3] == np.where(True, second.realised[:, 3], 0)).all()
    assert not found.stacked.mask[bars:, 6:].any()
    assert found.oracle is None


def test_a_forecast_that_one_fold_lacks_is_named_and_the_model_is_required():
    first, second = make_folds(folds=2)
    less = replace(second, forecasts={"gnn": second.forecasts["gnn"], "zero": second.forecasts["zero"]})
    assert any(
        "Not compared, as some folds lack them: AR ridge" in line
        for line in assess(full(folds=(first, less))).negatives
    )
    with pytest.raises(Rejected, match="no forecast called gnn"):
        assess(full(folds=(first, replace(second, forecasts={"zero": second.forecasts["zero"]}))))


def test_everything_that_comes_from_outside_is_escaped():
    nasty = '<script>alert("x")</script> & $a$ <!--'
    folds = tuple(
        replace(
            fold,
            label=nasty,
            symbols=(nasty, *fold.symbols[1:]),
            graph=replace(fold.graph, symbols=(nasty, *fold.symbols[1:])),
            forecasts={**fold.forecasts, nasty: fold.forecasts["zero"] + 1e-5},
        )
        for fold in make_folds(n=5, bars=60, folds=2)
    )
    data = full(folds=folds, title=nasty, ablations=(Ablation(nasty, 0.1, 0.1, -0.1, 0.2),))
    data = replace(
        data, card=replace(data.card, source=nasty, gaps=(nasty,)), checks=(Check(nasty, False, nasty),)
    )
    check_page(render_report(data))


def test_a_leaking_honest_pipeline_is_called_out():
    leak = NullLeak("this pipeline", 0.02, 0.01, 0.03, 5.0, honest=True)
    found = assess(full(null_leaks=(leak,)))
    assert any("it leaks" in line for line in found.negatives)


def test_a_split_without_purge_is_called_out():
    fold = make_folds(folds=1, n=4, bars=60)[0]
    touching = replace(fold, spans=tuple(span for span in fold.spans if span.kind != "purge"))
    reaching = tuple(
        replace(span, end=span.end + 12 * STEP) if span.kind == "validation" else span for span in touching.spans
    )
    found = assess(full(folds=(fold, replace(touching, label="bad", spans=reaching))))
    assert [line for line in found.negatives if "no purge" in line] == [
        "Fold bad has no purge before its test stretch: its forecasts may have seen the test."
    ]


def test_figures_come_in_the_order_of_their_numbers():
    data = replace(full(), folds=())
    found = assess(data)
    assert [figure(data, found).number for figure in FIGURES] == list(range(1, 17))
