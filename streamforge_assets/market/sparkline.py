"""A small picture of a day: price as a line, volume as bars, in an SVG of a few kilobytes."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, VOLUME_HEIGHT, POINTS = 240, 60, 16, 96


def sparkline(price: NDArray[np.float64], volume: NDArray[np.float64]) -> str:
    """Draw price over volume, both shape (n,), as Markdown with an inline SVG; an empty day says so."""
    if len(price) == 0:
        return "_no trades_"
    parts = np.array_split(np.arange(len(price)), min(POINTS, len(price)))
    line = np.array([price[part[-1]] for part in parts])
    bars = np.array([volume[part].sum() for part in parts])
    x = np.linspace(0, WIDTH, len(parts))
    low, high = float(line.min()), float(line.max())
    y = (HEIGHT - VOLUME_HEIGHT) * (1 - (line - low) / ((high - low) or 1.0))
    tall = VOLUME_HEIGHT * bars / (float(bars.max()) or 1.0)
    points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True))
    columns = "".join(f"M{a:.0f} {HEIGHT}v-{b:.1f}" for a, b in zip(x, tall, strict=True))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -2 {WIDTH} {HEIGHT + 2}" '
        f'width="{WIDTH}" height="{HEIGHT + 2}">'
        f'<path d="{columns}" stroke="#9db2c9" stroke-width="2"/>'
        f'<polyline points="{points}" fill="none" stroke="#2f6fde" stroke-width="1.5"/></svg>'
    )
    encoded = base64.b64encode(svg.encode()).decode()
    return f"![price {low:g} to {high:g}, volume below](data:image/svg+xml;base64,{encoded})"
