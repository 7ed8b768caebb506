"""How well directed edges that were found agree with edges that are there. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamforge_assets.graphs.graph import Bools


@dataclass(frozen=True, slots=True)
class EdgeAgreement:
    """Numbers of directed edges between different assets: found, planted, and both."""

    found: int
    planted: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the found edges that were planted; 1 when none was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the planted edges that were found; 1 when none was planted."""
        return self.right / self.planted if self.planted else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 for two empty graphs."""
        both = self.found + self.planted
        return 2 * self.right / both if both else 1.0

    @property
    def jaccard(self) -> float:
        """Edges in both over edges in either (Jaccard 1901); 1 for two empty graphs."""
        either = self.found + self.planted - self.right
        return self.right / either if either else 1.0


def edge_agreement(found: Bools, planted: Bools) -> EdgeAgreement:
    """Compare two matrices of edges `[follower, leader]`, shape (N, N) each; the diagonal is left out."""
    off = ~np.eye(len(found), dtype=np.bool_)
    return EdgeAgreement(int((found & off).sum()), int((planted & off).sum()), int((found & planted & off).sum()))
