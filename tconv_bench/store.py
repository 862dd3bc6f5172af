"""What was measured, and where it lies: Measurement rows as JSON lines, and asv's result files read into the same rows.

One row holds one method on one problem: the samples of its run time, its preparation, its memory, and the machine,
versions and commit they came from. Files are append-only; a row is one line, written at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One method on one problem, on one machine.

    Times are seconds, sizes bytes. ``median`` is None where nothing was timed, and ``note`` says why (a sentence of
    ``supports``, or "wrong result: ..."). ``low`` and ``high`` bound the median's 95 % confidence interval.
    """

    suite: str  # "layers", "sizes", "channels", "kernels", "strides_paddings", "dimensions" or "cli"
    label: str  # a layer's name such as "DCGAN g2", or the problem's own text
    problem: str  # Problem's text form
    method: str
    device: str = "cpu"
    median: float | None = None
    low: float | None = None
    high: float | None = None
    minimum: float | None = None
    samples: tuple[float, ...] = ()
    prepare_seconds: float | None = None
    prepared_bytes: int | None = None
    workspace_bytes: int | None = None
    note: str = ""
    threads: int | None = None
    measured_at: str = ""  # ISO 8601, UTC
    machine: dict[str, Any] = field(default_factory=dict)  # name, cpu, arch, cores, ram, os
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    profile: str = ""  # "quick", "standard", "full" or ""
