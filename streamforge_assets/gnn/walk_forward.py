"""Training and test rows that follow each other in time and share nothing. Pure Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resources.errors import Rejected


@dataclass(frozen=True)
class Fold:
    """Rows [start, stop) of a panel to train on, and the later ones to test on."""

    train: slice
    test: slice


def walk_forward(
    bars: int, folds: int, *, train: int, purge: int, embargo: int = 0, rolling: bool = False
) -> Iterator[Fold]:
    """Folds over `bars` rows: the test parts are equal, adjacent and end with the last row.

    Between the last training row and the first test row lie at least `purge + embargo` rows that neither part
    has. A purge of lookback + horizon makes sure that no bar is both a training target and a test input, nor
    the other way round.

    Args:
        bars: T.
        folds: number of test parts.
        train: rows before the first test part, what is purged included; with `rolling`, before each.
        purge: lookback + horizon, in bars.
        embargo: more bars left out, against what decays slowly.
        rolling: whether each training part begins `train` rows before its test part, or all begin at row 0.

    Raises:
        Rejected: when the rows do not suffice.
    """
    gap = purge + embargo
    test = (bars - train) // folds if folds > 0 else 0
    if test < 1 or train - gap < 1 or purge < 0 or embargo < 0:
        raise Rejected(
            f"{bars} bars make no {folds} folds with {train} training bars, {purge} purged and an embargo of"
            f" {embargo}; take more bars, fewer folds or a shorter training part"
        )
    first = bars - folds * test
    for index in range(folds):
        begin = first + index * test
        yield Fold(slice(begin - train if rolling else 0, begin - gap), slice(begin, begin + test))
