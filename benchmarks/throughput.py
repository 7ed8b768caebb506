"""Training throughput of contiguous pieces against the usual PyG DataLoader, one temporal model, one thread."""

from __future__ import annotations

import torch

from benchmarks.result import Result
from streamforge_assets.study.throughput import loader_per_second, pieces_per_second, setting

TARGET = 12.0
ROUNDS = 4


def run() -> list[Result]:
    """Windows per CPU second, forward, backward and AdamW, N = 50, batches of 64; best of alternating rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        at = setting(50)
        pieces, naive, tight = 0.0, 0.0, 0.0
        for _ in range(ROUNDS):
            naive = max(naive, loader_per_second(at))
            pieces = max(pieces, pieces_per_second(at))
            tight = max(tight, loader_per_second(at, padded=False))
    finally:
        torch.set_num_threads(threads)
    value = pieces / naive
    usual = f"{naive:.0f} windows/s with the reference TCN in a DataLoader, {tight:.0f} without its padding"
    reference = f"{usual}; ours {pieces:.0f}"
    return [Result("gnn_throughput", value, "times", TARGET, reference, value >= TARGET)]
