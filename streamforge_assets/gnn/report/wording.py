"""Numbers as a reader wants them, and the few turns of phrase that every figure uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamforge_assets.gnn.bootstrap import Estimate

MINUS, DASH = "\u2212", "\u2013"


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, without an exponent between 1e-4 and 1e6; a dash for what is not known."""
    if value is None or not np.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = int(np.floor(np.log10(abs(float(f"{value:.{digits - 1}e}")))))
    text = f"{value:.{digits - 1}e}" if abs(size) > 6 else f"{value:,.{max(0, digits - 1 - size)}f}"
    return text.replace("-", MINUS)


def ic(value: float) -> str:
    """A correlation to three decimals, or four where it is small: finer digits are noise."""
    if abs(value) < 0.00005:
        return "0" if value == 0 else "0.0000"
    return f"{value:+.3f}".replace("-", MINUS) if abs(value) >= 0.01 else f"{value:+.4f}".replace("-", MINUS)


def size(value: float) -> str:
    """The size of a correlation, for sentences that say its direction in words."""
    return ic(abs(value)).lstrip("+")


def fixed(value: float, decimals: int) -> str:
    return f"{value if abs(value) >= 0.5 * 10**-decimals else 0.0:.{decimals}f}".replace("-", MINUS)


def plain(value: float) -> str:
    """A setting or a tick, without zeros that say nothing: 5, 0.2, 8,640."""
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def probability(share: float) -> str:
    """A probability that never claims to be certain."""
    return "above 99.9\u00a0%" if share > 0.999 else "below 0.1\u00a0%" if share < 0.001 else percent(share)


def bracket(found: Estimate) -> str:
    """For a table: the value, and its interval on a line of its own."""
    return f"{ic(found.value)}\n[{ic(found.low)}, {ic(found.high)}]"


def percent(share: float | None, decimals: int = 1) -> str:
    return (
        DASH
        if share is None or not np.isfinite(share)
        else f"{100 * share:.{decimals}f}\u00a0%".replace("-", MINUS)
    )


def interval(found: Estimate) -> str:
    return f"{ic(found.value)} (95\u00a0% interval {ic(found.low)} to {ic(found.high)})"


def evidence(found: Estimate, claim: str) -> str:
    """What an interval says about a claimed positive effect, such as "skill"."""
    if found.contains_zero:
        return f"the interval contains 0: this is no evidence of {claim}"
    return f"the interval lies {'above' if found.low > 0 else 'below'} 0"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
