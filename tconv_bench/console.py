"""What the commands share: the two consoles, and how progress is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tconv_bench import suite

EXAMPLE = "n1_ci512_i4x4_co256_k4x4_s2x2_p1x1"
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line on the standard error, after the command's name."""
    err.print(f"tconv-bench: {' '.join(message.split())}", markup=False)


def epilog(command: str) -> str:
    """The example below a command's help."""
    return f"Example: [bold]tconv-bench {command}[/bold]"


@contextmanager
def shown() -> Iterator[Callable[[suite.Progress], None]]:
    """A bar on a terminal; elsewhere a line every ten seconds."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("", total=None)
        yield lambda p: bar.update(task, completed=p.done, total=p.total or None, description=p.current or "done")


@contextmanager
def interruptible(place: Path | None) -> Iterator[Callable[[suite.Progress], None]]:
    """``shown``, of which Ctrl-C makes a ``suite.Interrupted`` that says how far it was and what ``place`` keeps."""
    last = suite.Progress(0)

    def note(progress: suite.Progress) -> None:
        nonlocal last
        last = progress
        show(progress)

    try:
        with shown() as show:
            yield note
    except KeyboardInterrupt:
        raise suite.Interrupted(last.done, last.total, place) from None


class _Lines:
    """Progress for a log."""

    def __init__(self) -> None:
        self.due = 0.0

    def __call__(self, progress: suite.Progress) -> None:
        now = monotonic()
        if now >= self.due or not progress.current:
            self.due = now + 10
            err.print(f"[{progress.done}/{progress.total or '?'}] {progress.current or 'done'}", markup=False)
