"""The brokers that the tests own: what they promise to the tests."""

from __future__ import annotations

from tests.servers.kafka import cluster_id


def test_a_cluster_id_never_looks_like_an_option() -> None:
    """One id in 64 began with a dash, and the broker of that run did not start."""
    ids = {cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(one[0] == "A" and len(one) == 22 for one in ids)
