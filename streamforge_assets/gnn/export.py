"""The model as one program that runs without our code: torch.export."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from streamforge_assets.gnn.model import Forecaster


def _without_empty(module: Forecaster) -> Forecaster:
    """A copy without the parameters of a graph without edges, which nothing reads and torch cannot save."""
    module = copy.deepcopy(module)
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.numel() == 0:
            delattr(module, name)
    return module


def export_program(module: Forecaster, nodes: int, features: int, path: Path) -> None:
    """Write the module to `path` (.pt2) with a free number of pieces and of bars.

    Its inputs are those of `Forecaster.forward`: features (B, S, N, F), returns and sigma (B, S, N), float32.
    `torch.export.load(path).module()(features, returns, sigma)` gives (B, S - context, N) in units of sigma; S is
    at least context + 2, since torch.export takes a length that may be 1 for one that always is.
    """
    module = _without_empty(module.eval().to("cpu"))
    length = module.context + 8
    # Three tensors of their own: one tensor given twice would become one input.
    example = tuple(torch.ones(2, length, nodes, *more) for more in ((features,), (), ()))
    batch = torch.export.Dim("batch", min=1, max=65_536)
    bars = torch.export.Dim("bars", min=module.context + 2, max=1_000_000)
    shapes = tuple({0: batch, 1: bars} for _ in example)
    program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)
