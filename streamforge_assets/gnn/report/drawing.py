"""One look for every figure: small, readable on a phone, safe for colour-blind eyes, and free of outside links."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

MODEL, BASELINE, TRUTH, GREY, DARK = "#0072B2", "#D55E00", "#009E73", "#999999", "#333333"
CYCLE = (MODEL, BASELINE, TRUTH, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe & Ito's colours, told apart by eyes that do not see red or green."""
LINES = ("-", "--", "-.", ":")
SIZE, THIRD = (4.4, 2.9), (3.2, 2.5)
"""Inches of a panel, and of one of three side by side."""
POINTS = 300
PIXELS = 96 / 72
"""CSS pixels per point: text keeps its size wherever the screen has room."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "streamforge",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DARK,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "path.simplify": True,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report, ready for the page.

    Args:
        number: as in the report's list; 0 for those outside it.
        title: what it shows.
        how: one sentence: how to read it.
        says: one sentence: what these numbers say, or why the figure is absent.
        pictures: inline SVG, one for each panel; none when absent.
    """

    number: int
    title: str
    how: str
    says: str
    pictures: tuple[str, ...] = ()


def svg(paint: Callable[[Axes], None], alt: str, size: tuple[float, float] = SIZE) -> str:
    """Draw one panel and return it as inline SVG with `alt` as its description."""
    buffer = io.StringIO()
    _save(paint, buffer, "svg", size)
    return _inline(buffer.getvalue(), alt)


def png(paint: Callable[[Axes], None], size: tuple[float, float], dpi: int = 80) -> bytes:
    """Draw one panel as PNG of few colours and few bytes: for places that show no SVG."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    _save(paint, drawn, "png", size, dpi)
    Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def markdown(picture: bytes, alt: str) -> str:
    """A PNG as Markdown with its bytes inside."""
    clean = re.sub(r"[\[\]\n]", " ", alt)
    return f"![{clean}](data:image/png;base64,{base64.b64encode(picture).decode()})"


def _save(
    paint: Callable[[Axes], None],
    buffer: io.StringIO | io.BytesIO,
    kind: str,
    size: tuple[float, float],
    dpi: int = 80,
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(STYLE):
        figure: Figure = Canvas(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        metadata: dict[str, object] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)


def _inline(text: str, alt: str) -> str:
    """The <svg> element alone: no prologue, metadata or name spaces, and only those ids that are referred to."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r'\s+id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"\n\s*", "\n", text)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head, body = text.split(">", 1)
    wide, high = re.findall(r'\s(?:width|height)="([\d.]+)pt"', head)
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    pixels = f'width="{float(wide) * PIXELS:.0f}" height="{float(high) * PIXELS:.0f}"'
    return f'{head} {pixels} role="img" aria-label="{label}">{body.strip()}'


def thin(values: Floats, points: int = POINTS) -> NDArray[np.int64]:
    """Indices of at most `points` evenly spaced entries, the last included."""
    return np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).astype(np.int64))


def text(value: str) -> str:
    """A label as it stands: matplotlib must not take a dollar for mathematics."""
    return value.replace("$", r"\$")


def whiskers(
    axes: Axes, labels: Sequence[str], values: Floats, low: Floats, high: Floats, colors: Sequence[str]
) -> None:
    """Horizontal bars with intervals, the first label on top."""
    from matplotlib.ticker import MaxNLocator

    y = np.arange(len(labels))
    axes.barh(y, values, color=list(colors), height=0.62, alpha=0.85)
    spread = np.stack([np.maximum(values - low, 0), np.maximum(high - values, 0)])
    axes.errorbar(values, y, xerr=spread, fmt="none", ecolor=DARK, elinewidth=1.0, capsize=2)
    axes.set_yticks(y, [text(label) for label in labels])
    axes.invert_yaxis()
    axes.axvline(0, color=DARK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def tall(labels: Sequence[str]) -> tuple[float, float]:
    """Size of a panel of horizontal bars: a row for each label, and room for the longest."""
    longest = max((len(label) for label in labels), default=0)
    return SIZE[0] + min(1.6, 0.06 * max(0, longest - 14)), max(1.6, 0.75 + 0.27 * len(labels))
