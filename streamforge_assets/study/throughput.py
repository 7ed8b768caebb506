"""Windows per second of training, by how windows are made into batches. One temporal model for all styles.

The model is a TCN (receptive field 15) on each node, one signed graph layer over the last bar, a linear head;
forward, backward and AdamW. A window is the last 15 bars of all N assets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamforge_assets.gnn.batching import PanelTensors, draw_pieces
from streamforge_assets.gnn.config import TCN_DILATIONS, TCN_KERNEL, GnnConfig
from streamforge_assets.gnn.layers import SignedMessages, Tcn
from streamforge_assets.market.panel import Panel
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.markets import planted_edges, study_market

REACH = GnnConfig(encoder="tcn").reach
WINDOWS = 64


@dataclass(frozen=True)
class Setting:
    """A panel, its tensors, and the planted edges (2, E): leaders over followers."""

    panel: Panel
    data: PanelTensors
    edges: Tensor


def setting(n: int, *, bars: int = 2048, seed: int = 11) -> Setting:
    """A market of `n` assets."""
    market = study_market(MarketParameters(n=n, seed=seed), bars)
    follower, leader = np.nonzero(planted_edges(market.networks[0]))
    return Setting(market.panel, PanelTensors.of(market.panel), torch.from_numpy(np.stack([leader, follower])))


class PieceModel(nn.Module):
    """The temporal model on contiguous pieces (B, S, N, F) → (B, S - 14, N)."""

    def __init__(self, features: int, hidden: int, edges: Tensor, nodes: int) -> None:
        super().__init__()
        self.encoder = Tcn(features, hidden)
        self.messages = SignedMessages(edges[0], edges[1], nodes)
        self.weight = nn.Parameter(torch.full((edges.shape[1],), 0.1))
        self.neighbours, self.root = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(x)
        sent = torch.matmul(self.messages.matrix(self.weight).t(), self.neighbours(state))
        out: Tensor = self.head(torch.relu(self.root(state) + sent)).squeeze(-1)
        return out


class WindowModel(nn.Module):
    """The same model as it is usually written: `Conv1d` over each node's window, PyG's `GraphConv`; (B N, L, F).

    With `padded`, each convolution keeps the window's length by zeros before it, as in the reference TCN
    (locuslab/TCN, Bai et al. 2018); without, the window shrinks to the one bar that is read. Both give the same.
    """

    def __init__(self, features: int, hidden: int, *, padded: bool = True) -> None:
        super().__init__()
        from torch_geometric.nn import GraphConv

        sizes = [features] + [hidden] * (len(TCN_DILATIONS) - 1)
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(a, hidden, TCN_KERNEL, dilation=d) for a, d in zip(sizes, TCN_DILATIONS, strict=True)]
        )
        self.padded = padded
        self.graph = GraphConv(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for convolution, dilation in zip(self.convolutions, TCN_DILATIONS, strict=True):
            before = (TCN_KERNEL - 1) * dilation if self.padded else 0
            y = torch.relu(convolution(nn.functional.pad(x, (before, 0))))
            x = y + x[:, :, -y.shape[-1] :] if x.shape[1] == y.shape[1] else y
        state = x[:, :, -1]
        out: Tensor = self.head(torch.relu(self.graph(state, edges, weight))).squeeze(-1)
        return out


def take_weights(piece: PieceModel, window: WindowModel) -> None:
    """Give the piece model the window model's weights, so that both are one function."""
    with torch.no_grad():
        for linear, convolution in zip(piece.encoder.linears, window.convolutions, strict=True):
            # (out, in, kernel) → (out, kernel · in): shifted views lie side by side.
            linear.weight.copy_(convolution.weight.transpose(1, 2).flatten(1))  # type: ignore[operator]  # modules of a list
            linear.bias.copy_(convolution.bias)  # type: ignore[operator,arg-type]  # modules of a list
        piece.neighbours.weight.copy_(window.graph.lin_rel.weight)
        piece.root.weight.copy_(window.graph.lin_root.weight)
        piece.root.bias.copy_(window.graph.lin_rel.bias)
        piece.head.load_state_dict(window.head.state_dict())


def pieces_per_second(
    at: Setting,
    *,
    hidden: int = 32,
    windows: int = WINDOWS,
    steps: int = 64,
    least: int = 30,
    seconds: float = 2.0,
) -> float:
    """Windows a second with batches of contiguous pieces that together hold `windows` windows."""
    model = PieceModel(at.panel.features.shape[-1], hidden, at.edges, len(at.panel.symbols))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    rows = range(REACH - 1, at.panel.bars - 1)

    def epoch() -> Any:
        for starts in draw_pieces(rows, steps, windows // steps, generator):
            features, _, _, target, use = at.data.pieces(starts, steps, REACH - 1)
            yield ((model(features) - target) * use).square().mean()

    return _rate(epoch, optimizer, windows, least, seconds)


def loader_per_second(
    at: Setting,
    *,
    hidden: int = 32,
    windows: int = WINDOWS,
    least: int = 10,
    seconds: float = 2.0,
    padded: bool = True,
) -> float:
    """Windows a second with PyG's DataLoader over a Dataset that makes one `Data` per window: the usual way."""
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    features, target = at.data.features, at.data.target
    weight = torch.full((at.edges.shape[1],), 0.1)

    class Windows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return at.panel.bars - REACH

        def __getitem__(self, index: int) -> Any:
            window = features[index : index + REACH].transpose(0, 1)
            return Data(x=window, edge_index=at.edges, edge_weight=weight, y=target[index + REACH - 1])

    model = WindowModel(features.shape[-1], hidden, padded=padded)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loader = DataLoader(Windows(), batch_size=windows, shuffle=True, drop_last=True)

    def epoch() -> Any:
        for batch in loader:
            yield (model(batch.x, batch.edge_index, batch.edge_weight) - batch.y).square().mean()

    return _rate(epoch, optimizer, windows, least, seconds)


def _rate(
    epoch: Callable[[], Any], optimizer: torch.optim.Optimizer, windows: int, least: int, seconds: float
) -> float:
    """Windows per CPU second over at least `least` steps and `seconds`, after three steps of warming up."""
    done, began = -3, 0.0
    while True:
        for loss in epoch():
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
            if done == 0:
                began = time.process_time()
            spent = time.process_time() - began
            if done >= least and spent >= seconds:
                return done * windows / spent
