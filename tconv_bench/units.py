"""Numbers for people: three significant digits and a unit that keeps them short."""

from __future__ import annotations

from math import floor, log10

X = "\N{MULTIPLICATION SIGN}"
NONE = "\N{EN DASH}"
_TIMES = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_BYTES = ((1, "B"), (1024, "KiB"), (1024**2, "MiB"), (1024**3, "GiB"), (1024**4, "TiB"))
_FLOPS = ((1.0, "FLOP"), (1e3, "kFLOP"), (1e6, "MFLOP"), (1e9, "GFLOP"), (1e12, "TFLOP"))


def significant(value: float, digits: int = 3) -> str:
    """``value`` rounded to significant digits, never in exponent form.

    >>> significant(0.012345), significant(9.996), significant(12345.0), significant(0)
    ('0.0123', '10.0', '12300', '0')
    """
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    return f"{value:.{max(0, digits - 1 - floor(log10(abs(value))))}f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...], limit: float) -> str:
    scale, unit = next(((s, u) for s, u in units if value < limit * s), units[-1])
    return f"{significant(value / scale)} {unit}"


def seconds(value: float | None) -> str:
    """A time: ``1.23 ms``; an en dash for None.

    >>> seconds(0.00123456), seconds(0.0009999), seconds(None)
    ('1.23 ms', '1.00 ms', '–')
    """
    return NONE if value is None else _scaled(value, _TIMES, 999.5)


def size(value: float | None) -> str:
    """Bytes in binary units: ``1.50 MiB``; whole bytes below 1 KiB; an en dash for None.

    >>> size(0), size(640), size(1536), size(64 * 1024**2)
    ('0 B', '640 B', '1.50 KiB', '64.0 MiB')
    """
    if value is None:
        return NONE
    return f"{value:.0f} B" if value < 1023.5 else _scaled(value, _BYTES, 1023.5)


def flops(value: float) -> str:
    """Operations in decimal units: ``51.4 MFLOP``.

    >>> flops(51_380_224), flops(640)
    ('51.4 MFLOP', '640 FLOP')
    """
    return _scaled(value, _FLOPS, 999.5)


def size_tick(value: float) -> str:
    """Bytes as an axis label: ``4 KiB``, ``512 MiB``.

    >>> size_tick(4096), size_tick(2**29)
    ('4 KiB', '512 MiB')
    """
    scale, unit = next(((s, u) for s, u in _BYTES if value < 1024 * s), _BYTES[-1])
    return f"{value / scale:g} {unit}"


def time_tick(value: float) -> str:
    """Seconds as an axis label: ``100 µs``.

    >>> time_tick(1e-4), time_tick(2e-3)
    ('100 µs', '2 ms')
    """
    scale, unit = next(((s, u) for s, u in _TIMES if value < 999.5 * s), _TIMES[-1])
    return f"{value / scale:g} {unit}"


def times(value: float | None) -> str:
    """A ratio: ``3.21×``; an en dash for None.

    >>> times(3.2123), times(0.05), times(217.4)
    ('3.21×', '0.0500×', '217×')
    """
    return NONE if value is None else f"{significant(value)}{X}"
