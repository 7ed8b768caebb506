"""The panel as tensors on one device, and batches of contiguous pieces of it.

One (T, N, F) tensor stays on the device; a batch is a list of first rows. Neighbouring windows share what the
encoder computes, so a piece of 64 bars costs hardly more than a few windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamforge_assets.market.panel import Floats, Panel, targets


@dataclass(frozen=True)
class PanelTensors:
    """float32 tensors of a panel: features (T, N, F); returns, sigma, target, use (T, N).

    `use` multiplies residuals: 0 where the target is not known, else one over their expected scale.
    """

    features: Tensor
    returns: Tensor
    sigma: Tensor
    target: Tensor
    use: Tensor

    @classmethod
    def of(cls, panel: Panel, scale: Floats | None = None, device: str = "cpu") -> PanelTensors:
        """The panel's numbers on `device`. `scale` (T, N) is 1 by default."""
        y, known = targets(panel)
        use = known / (np.ones_like(y) if scale is None else scale)
        arrays = (panel.features, panel.returns, panel.sigma, y, use)
        return cls(*(torch.tensor(np.asarray(a, dtype=np.float32)).to(device) for a in arrays))

    def pieces(self, starts: Tensor, steps: int, context: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features, returns, sigma of (B, context + steps, N), target and use of (B, steps, N).

        Args:
            starts: first forecast row of each piece, shape (B,); at least `context`.
            steps: forecast rows of a piece.
            context: rows before them that the model looks at.
        """
        offsets = torch.arange(-context, steps, device=starts.device)
        rows = (starts[:, None] + offsets).flatten()
        whole = [
            item.index_select(0, rows).view(len(starts), context + steps, *item.shape[1:])
            for item in (self.features, self.returns, self.sigma)
        ]
        inner = (starts[:, None] + offsets[context:]).flatten()
        judged = [item.index_select(0, inner).view(len(starts), steps, -1) for item in (self.target, self.use)]
        return whole[0], whole[1], whole[2], judged[0], judged[1]


def draw_pieces(rows: range, steps: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    """First rows of an epoch's pieces, batch by batch, in random order; where pieces begin differs by epoch.

    Every batch is full: shapes do not change, and the few bars left over come in another epoch.
    """
    count = len(rows) // steps
    spare = len(rows) - count * steps
    if spare == 0 and count > batch:
        count, spare = count - 1, steps
    offset = int(torch.randint(0, spare + 1, (1,), generator=generator))
    order = torch.randperm(count, generator=generator)
    starts = rows.start + offset + order * steps
    batch = min(batch, count)
    return list(torch.split(starts[: count // batch * batch], batch))


def windows(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """[first, last) in parts of at most `size`."""
    for begin in range(first, last, size):
        yield begin, min(begin + size, last)


def fit_standardise(features: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and deviation of each feature over the bars that may be used, each (F,)."""
    used = features[mask].astype(np.float64)
    if len(used) == 0:
        return np.zeros(features.shape[-1]), np.ones(features.shape[-1])
    deviation = used.std(axis=0)
    return used.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0)
