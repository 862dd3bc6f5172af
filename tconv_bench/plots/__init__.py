"""Measurements in, figures out: nothing here times, computes a convolution, or reads a file.

Every function takes a list of Measurements and returns a ``matplotlib.figure.Figure``; it raises ``NothingToDrawError`` where
the rows that it needs are absent. ``save`` writes a figure as PNG and SVG.
"""

from tconv_bench.plots.heatmap import speedup_heatmap
from tconv_bench.plots.maps import stride_padding_maps
from tconv_bench.plots.memory import time_memory_scatter, workspace_bars
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import save
from tconv_bench.plots.sweeps import time_against_size, time_sweeps
from tconv_bench.plots.winners import winner_map

__all__ = [
    "NothingToDrawError",
    "save",
    "speedup_heatmap",
    "stride_padding_maps",
    "time_against_size",
    "time_memory_scatter",
    "time_sweeps",
    "winner_map",
    "workspace_bars",
]
