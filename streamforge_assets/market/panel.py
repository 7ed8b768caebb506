"""Bars of several symbols on one grid: what graphs and models are made from. Pure NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resources.errors import Rejected

Floats = NDArray[np.float64]

RETURN_Z = "return_z"
"""The first feature of every panel: the bar's return over the volatility known before it."""


@dataclass(frozen=True)
class Panel:
    """T bars of N symbols on a regular grid, with everything known at the end of each bar and nothing later.

    Args:
        symbols: the N symbols, the order of every N axis.
        times: open time of each bar, microseconds since the epoch, shape (T,), int64.
        returns: log return of each bar, shape (T, N); 0 where masked.
        sigma: volatility per bar, known at the end of the bar, shape (T, N); positive everywhere.
        mask: whether the bar may be used: it and the bar before had trades, and sigma is warm, shape (T, N).
        features: model inputs, shape (T, N, F), float32; 0 where masked. The first is `return_z`.
        names: the F names of the features.
    """

    symbols: tuple[str, ...]
    times: NDArray[np.int64]
    returns: Floats
    sigma: Floats
    mask: NDArray[np.bool_]
    features: NDArray[np.float32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what no graph or model could be made from.

        Raises:
            Rejected: for shapes that do not fit, a symbol that stands twice, or numbers that are not finite.
        """
        shape = (len(self.times), len(self.symbols))
        twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if twice:
            raise Rejected(f"{twice[0]} stands twice among the symbols of the panel; name each once")
        for name in ("returns", "sigma", "mask"):
            found = getattr(self, name).shape
            if found != shape:
                raise Rejected(f"{name} of the panel has shape {found}; bars and symbols make it {shape}")
        if self.features.shape != (*shape, len(self.names)) or self.names[:1] != (RETURN_Z,):
            raise Rejected(
                f"features of the panel have shape {self.features.shape} and names {self.names}; they must be"
                f" {(*shape, len(self.names))} and begin with {RETURN_Z}"
            )
        for name in ("returns", "sigma", "features"):
            wrong = np.argwhere(~np.isfinite(getattr(self, name)))
            if len(wrong):
                bar = np.datetime64(int(self.times[wrong[0][0]]), "us")
                raise Rejected(
                    f"{name} of {self.symbols[wrong[0][1]]} in bar {bar} is not a finite number;"
                    " make the features of that day again"
                )
        if not (self.sigma > 0).all():
            raise Rejected("sigma of the panel must be positive everywhere")

    @property
    def bars(self) -> int:
        """T."""
        return len(self.times)

    @property
    def z(self) -> Floats:
        """Standardised returns r[t] / sigma[t - 1], clipped as the feature is, 0 where masked, shape (T, N)."""
        return self.features[:, :, 0].astype(np.float64)

    @property
    def coverage(self) -> Floats:
        """Share of each symbol's bars that may be used, shape (N,)."""
        return np.asarray(self.mask.mean(axis=0)) if self.bars else np.zeros(len(self.symbols))

    @property
    def digest(self) -> str:
        """SHA-256 of symbols, times and numbers: equal panels have equal digests."""
        total = hashlib.sha256("\n".join((*self.symbols, "", *self.names)).encode())
        for array in (self.times, self.returns, self.sigma, self.mask, self.features):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def rows(self, start: int, stop: int) -> Panel:
        """The bars [start, stop)."""
        at = slice(start, stop)
        return replace(
            self,
            times=self.times[at],
            returns=self.returns[at],
            sigma=self.sigma[at],
            mask=self.mask[at],
            features=self.features[at],
        )

    def choose(self, symbols: Sequence[str]) -> Panel:
        """The panel of `symbols`, in their order.

        Raises:
            Rejected: for a symbol that the panel lacks.
        """
        absent = [symbol for symbol in symbols if symbol not in self.symbols]
        if absent:
            raise Rejected(f"the panel lacks {', '.join(absent)}; it has {', '.join(self.symbols)}")
        at = [self.symbols.index(symbol) for symbol in symbols]
        return replace(
            self,
            symbols=tuple(symbols),
            returns=self.returns[:, at],
            sigma=self.sigma[:, at],
            mask=self.mask[:, at],
            features=self.features[:, at],
        )


def targets(panel: Panel) -> tuple[Floats, NDArray[np.bool_]]:
    """What a forecast made at the end of bar t is compared with: r[t + 1] / sigma[t], and where it is known.

    Both of shape (T, N). The last row is not known.
    """
    y = np.zeros_like(panel.returns)
    known = np.zeros_like(panel.mask)
    y[:-1] = panel.returns[1:] / panel.sigma[:-1]
    known[:-1] = panel.mask[1:] & panel.mask[:-1]
    return np.where(known, y, 0.0), known
