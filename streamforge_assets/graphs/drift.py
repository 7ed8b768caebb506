"""How much one graph differs from another. Pure Python."""

from __future__ import annotations

from streamforge_assets.graphs.graph import AssetGraph


def jaccard(one: AssetGraph, other: AssetGraph) -> float:
    """Edges that both have over edges that either has (Jaccard 1901); 1.0 if neither has any.

    An edge is leader, follower and lag, by symbol; edges of symbols that only one graph knows do not count.
    """
    common = set(one.symbols) & set(other.symbols)
    first, second = _edges(one, common), _edges(other, common)
    return len(first & second) / len(first | second) if first | second else 1.0


def _edges(graph: AssetGraph, symbols: set[str]) -> set[tuple[str, str, int]]:
    named = [
        (graph.symbols[j], graph.symbols[i], int(lag))
        for j, i, lag in zip(graph.leader, graph.follower, graph.lag, strict=True)
    ]
    return {edge for edge in named if edge[0] in symbols and edge[1] in symbols}
