"""What a report is made of: counts of edges, rankings, small plots, and how numbers are written."""

import numpy as np
import pytest

from streamforge_assets.gnn.report.data import precision_recall
from streamforge_assets.gnn.report.small import LIMIT, small_adjacency, small_ic, small_loss
from streamforge_assets.gnn.report.wording import number, percent
from streamforge_assets.graphs.agreement import edge_agreement
from tests.unit.test_report import graph_of


def test_the_agreement_of_edges_is_plain_counts():
    found, planted = np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    found[0, 1] = found[1, 2] = planted[0, 1] = planted[2, 3] = planted[3, 0] = True
    planted[1, 1] = True  # own lags are no edges
    agreed = edge_agreement(found, planted)
    assert (agreed.precision, agreed.recall, agreed.f1) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert agreed.jaccard == pytest.approx(1 / 4)
    assert edge_agreement(found, found).jaccard == 1
    none = np.zeros((2, 2), dtype=bool)
    assert edge_agreement(none, none).jaccard == edge_agreement(none, none).f1 == 1


def test_precision_recall_of_a_perfect_and_of_a_constant_ranking():
    planted = np.zeros((5, 5), dtype=bool)
    planted[0, 1:] = True
    assert precision_recall("perfect", planted.astype(float), planted).average == pytest.approx(1)
    flat = precision_recall("flat", np.zeros((5, 5)), planted)
    assert (flat.recall, flat.precision) == ([1.0], [4 / 20])


def test_small_plots_are_small_and_say_what_they_show():
    rng = np.random.default_rng(0)
    for n in (1, 3, 100):
        planted = (rng.random((n, n)) < 0.05) & ~np.eye(n, dtype=bool)
        graph = graph_of(tuple(f"S{i}" for i in range(n)), np.where(planted, rng.normal(size=(n, n)), 0.0))
        for shown in (small_adjacency(graph), small_adjacency(graph, planted)):
            assert len(shown) <= LIMIT
            assert shown.startswith("![") or n == 1
    losses = {"loss": rng.random(500), "validation_loss": rng.random(500)}
    assert len(small_loss(losses)) <= LIMIT
    assert len(small_ic([f"2024-08-{d:02d}" for d in range(1, 31)], rng.random(30), rng.random(30))) <= LIMIT
    assert "mean IC +0.200 over 2 folds" in small_ic(["a", "b"], [0.1, 0.3])
    assert small_loss({}) == "_no training history_"
    assert small_ic([], []) == "_no folds_"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.97, "0.970"), (0, "0"), (8640, "8,640"), (0.0123456, "0.0123"), (-1.5, "\u22121.50"),
        (1e-9, "1.00e\u221209"),
        (None, "\u2013"), (np.nan, "\u2013"), (0.9996, "1.00"), (19788.4, "19,788"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, shown):
    assert number(value) == shown


def test_percent_keeps_number_and_sign_together():
    assert percent(0.1234) == "12.3\u00a0%"
