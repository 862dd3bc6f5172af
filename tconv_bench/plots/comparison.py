"""The comparison's figures: this project's entrants and other engines on the same layers, from rows of suite "compare".

Every function takes a list of Measurements and returns a ``matplotlib.figure.Figure``; it raises ``NothingToDrawError`` where
the rows that it needs are absent. ``FIGURES`` lists them in the page's order, each with its caption, ``GPU_FIGURES`` those of a
GPU's page; ``save`` writes an SVG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from tconv_bench.plots import gpu_bars
from tconv_bench.plots import versus_captions as captions
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.versus_cost import break_even, workspace
from tconv_bench.plots.versus_heatmap import speedup_heatmap
from tconv_bench.plots.versus_samples import sample_ecdf, thread_scaling
from tconv_bench.plots.versus_speed import performance_profile, roofline
from tconv_bench.plots.versus_svg import save
from tconv_bench.plots.versus_winners import winner_map
from tconv_bench.store import Measurement

__all__ = [
    "FIGURES",
    "GPU_FIGURES",
    "Entry",
    "NothingToDrawError",
    "break_even",
    "performance_profile",
    "roofline",
    "sample_ecdf",
    "save",
    "speedup_heatmap",
    "thread_scaling",
    "winner_map",
    "workspace",
]


@dataclass(frozen=True)
class Entry:
    """A figure of the page: its file's name, its heading, how it is drawn, and what is said below it."""

    name: str
    heading: str
    draw: Callable[[list[Measurement]], Figure]
    caption: Callable[[list[Measurement]], str]


FIGURES = (
    Entry("winners", "Who is fastest", winner_map, captions.winners),
    Entry("profile", "How far from the fastest", performance_profile, captions.profile),
    Entry(
        "speedup_one_shot",
        "Speed-up, one-shot",
        partial(speedup_heatmap, mode="one-shot", cache="hot"),
        partial(captions.speedup, mode="one-shot", cache="hot"),
    ),
    Entry(
        "speedup_planned",
        "Speed-up, planned",
        partial(speedup_heatmap, mode="planned", cache="hot"),
        partial(captions.speedup, mode="planned", cache="hot"),
    ),
    Entry("roofline", "Against the machine's limits", roofline, captions.roofline),
    Entry("threads", "Threads", thread_scaling, captions.threads),
    Entry("workspace", "Memory", workspace, captions.workspace),
    Entry("break_even", "When preparing pays", break_even, captions.break_even),
    Entry("samples", "Every sample", sample_ecdf, captions.samples),
)
GPU_FIGURES = (
    Entry("layers", "Layer by layer", gpu_bars.layer_bars, gpu_bars.caption),
    Entry("winners", "Who is fastest", winner_map, captions.winners),
    Entry(
        "roofline",
        "Against the GPU's limits",
        partial(roofline, cache="flushed"),
        partial(captions.roofline, cache="flushed"),
    ),
    Entry("workspace", "Memory", partial(workspace, cache="flushed"), partial(captions.workspace, cache="flushed")),
)
