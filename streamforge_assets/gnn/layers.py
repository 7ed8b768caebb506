"""Encoders of a node's last bars, and messages along signed edges. Time is an axis, not a window.

Everything works on contiguous pieces of the panel, shape (B, S, N, F): what overlapping windows share is computed
once, and each output equals what the window that ends there would give.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from streamforge_assets.gnn.config import TCN_DILATIONS, TCN_KERNEL, EncoderName

DENSE_UP_TO = 200
"""Nodes up to which a dense matrix product is faster than gathering edges (measured, gnn.md §3d)."""


class Standardise(nn.Module):
    """(x - mean) / deviation, clipped to ±5. Fitted on training rows only, then constant."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (..., F)."""
        return ((x - self.mean) / self.deviation).clamp(-5.0, 5.0)


class WindowMlp(nn.Module):
    """One hidden layer over the features of the last `lookback` bars, the same for every node.

    (B, S, N, F) → (B, S - lookback + 1, N, H).
    """

    def __init__(self, features: int, hidden: int, lookback: int) -> None:
        super().__init__()
        self.lookback = lookback
        self.linear = nn.Linear(features * lookback, hidden)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1] - self.lookback + 1
        views = [x.narrow(1, shift, length) for shift in range(self.lookback)]
        return torch.relu(self.linear(torch.cat(views, dim=-1)))


class Tcn(nn.Module):
    """Causal dilated convolutions, kernel 3, dilations 1, 2, 4; residual from the second on.

    (B, S, N, F) → (B, S - 14, N, H). Each convolution is one matrix product over shifted views that lie side by
    side, which on a CPU is several times faster than `Conv1d` (no transposition, no im2col per node). In training
    its gradient is written by hand (`_CausalConvolution`); the function is the same.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        sizes = [features] + [hidden] * (len(TCN_DILATIONS) - 1)
        self.linears = nn.ModuleList([nn.Linear(TCN_KERNEL * size, hidden) for size in sizes])

    def forward(self, x: Tensor) -> Tensor:
        for linear, dilation in zip(self.linears, TCN_DILATIONS, strict=True):
            if self.training and torch.is_grad_enabled():
                x = _CausalConvolution.apply(x, linear.weight, linear.bias, dilation)
                continue
            views = _views(x, dilation)
            y = torch.relu(linear(torch.cat(views, dim=-1)))
            x = y + views[-1] if x.shape[-1] == y.shape[-1] else y
        return x


def _views(x: Tensor, dilation: int) -> list[Tensor]:
    """What each tap of the kernel sees, oldest first, each (B, S - (kernel - 1) dilation, N, F)."""
    length = x.shape[1] - (TCN_KERNEL - 1) * dilation
    return [x.narrow(1, tap * dilation, length) for tap in range(TCN_KERNEL)]


class _CausalConvolution(torch.autograd.Function):
    """relu(linear(views side by side)), plus the newest view where sizes agree.

    Autograd would fill a whole zero tensor for each view's gradient; here they are added in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        views = _views(x, dilation)
        side = torch.cat(views, dim=-1)
        y = torch.addmm(bias, side.view(-1, side.shape[-1]), weight.t()).relu_()
        ctx.save_for_backward(side, weight, y)
        ctx.dilation, ctx.shape = dilation, x.shape
        y = y.view(*side.shape[:-1], -1)
        return y + views[-1] if x.shape[-1] == y.shape[-1] else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        side, weight, y = ctx.saved_tensors
        whole = grads[0]
        inner = torch.ops.aten.threshold_backward(whole.reshape(-1, whole.shape[-1]), y, 0)
        grad_weight = (side.view(-1, side.shape[-1]).t() @ inner).t()  # faster than its transpose when F is small
        grad_x = None
        if ctx.needs_input_grad[0]:
            size = ctx.shape[-1]
            grad_x = whole.new_zeros(ctx.shape)
            for tap, view in enumerate(_views(grad_x, ctx.dilation)):
                part = weight[:, tap * size : (tap + 1) * size]
                if view.is_contiguous():  # a single piece
                    view.view(-1, size).addmm_(inner, part)
                else:
                    view.add_((inner @ part).view(view.shape))
            if size == whole.shape[-1]:
                _views(grad_x, ctx.dilation)[-1].add_(whole)
        return grad_x, grad_weight, inner.sum(dim=0), None


class WindowGru(nn.Module):
    """A GRU that reads the last `lookback` bars of each node, from a zero state in each window.

    (B, S, N, F) → (B, S - lookback + 1, N, H). Input products are shared by the windows, the recursion is not.
    """

    def __init__(self, features: int, hidden: int, lookback: int) -> None:
        super().__init__()
        self.hidden, self.lookback = hidden, lookback
        self.input = nn.Linear(features, 3 * hidden)
        self.recurrent = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1] - self.lookback + 1
        inputs = self.input(x)
        state: Tensor = inputs.new_zeros((inputs.shape[0], length, inputs.shape[2], self.hidden))
        for shift in range(self.lookback):
            r_in, z_in, n_in = inputs.narrow(1, shift, length).chunk(3, dim=-1)
            r_state, z_state, n_state = self.recurrent(state).chunk(3, dim=-1)
            keep = torch.sigmoid(z_in + z_state)
            new = torch.tanh(n_in + torch.sigmoid(r_in + r_state) * n_state)
            state = keep * state + (1 - keep) * new
        return state


def encoder(name: EncoderName, features: int, hidden: int, lookback: int) -> nn.Module:
    """The encoder of that name; each takes (B, S, N, F) and gives (B, S - reach + 1, N, H)."""
    if name == "tcn":
        return Tcn(features, hidden)
    if name == "gru":
        return WindowGru(features, hidden, lookback)
    return WindowMlp(features, hidden, lookback)


class Gate(nn.Module):
    """2 · sigmoid(logit) of a node's state: how much of its weight an edge out of the node transmits, 0 to 2.

    The logit is a linear function of the bar's features plus one of the encoder's output, both zero at the start:
    an untrained gate is exactly 1. (B, S, N, F) → (B, S - reach + 1, N).
    """

    def __init__(self, name: EncoderName, features: int, hidden: int, lookback: int) -> None:
        super().__init__()
        self.encoder = encoder(name, features, hidden, lookback)
        self.head = nn.Linear(hidden, 1)
        self.direct = nn.Linear(features, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Close what would move the gate away from 1."""
        for layer in (self.head, self.direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(x)
        length = state.shape[1]
        logit: Tensor = self.head(state) + self.direct(x.narrow(1, x.shape[1] - length, length))
        return 2.0 * torch.sigmoid(logit.squeeze(-1))


class SignedMessages(nn.Module):
    """out[i] = sum over edges j → i of weight · x[j]: signed, not normalised, no attention.

    Edges have one weight each, whatever the path: up to `DENSE_UP_TO` nodes a matrix product with the weights
    scattered into (N, N), above it gather, multiply, add. PyG's `GraphConv` with `aggr="add"`, identity
    transforms and these edge weights is the same map.

    Args:
        leader: index j of each edge, shape (E,).
        follower: index i of each edge, shape (E,).
        nodes: N.
        dense: which path; None chooses by `nodes`.
    """

    leader: Tensor
    follower: Tensor

    def __init__(self, leader: Tensor, follower: Tensor, nodes: int, *, dense: bool | None = None) -> None:
        super().__init__()
        self.nodes = nodes
        self.dense = nodes <= DENSE_UP_TO if dense is None else dense
        self.register_buffer("leader", leader)
        self.register_buffer("follower", follower)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """(..., N) and (E,) → (..., N)."""
        if self.dense:
            return x @ self.matrix(weight)
        sent = x.index_select(-1, self.leader) * weight
        return torch.zeros_like(x).index_add(-1, self.follower, sent)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weights as `[leader, follower]`, (N, N)."""
        flat = weight.new_zeros(self.nodes * self.nodes)
        return flat.index_add(0, self.leader * self.nodes + self.follower, weight).view(self.nodes, self.nodes)

    def extra_repr(self) -> str:
        return f"nodes={self.nodes}, edges={len(self.leader)}, {'dense' if self.dense else 'sparse'}"


def count_parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(math.prod(item.shape) for item in module.parameters() if item.requires_grad)
