"""Explicit CPU vectors for Numba: the register tile under every variant.

Numba's own loops keep small accumulators in memory and reach 3 GFLOP/s where the same arithmetic in registers reaches the
machine's peak (docs: ARCHITECTURE.md, "Why a tile"). This package is the only place that emits LLVM IR.

Names are taken from here; the modules behind it are cut by what they do.
"""

from tconv_bench.simd.calls import as_pointer, call_task, prefetch_to_read, prefetch_to_write, take_number
from tconv_bench.simd.column_tiles import call_sum_columns, native_sum_columns, sum_columns
from tconv_bench.simd.copies import (
    add_rows,
    clear,
    copy_grid,
    copy_rows,
    copy_strided,
    finish_streams,
    halve_rows,
    spread,
    stamp_3x3_by_2,
    stream,
)
from tconv_bench.simd.interleaving import INTERLEAVED, copy, deinterleave, interleave, part_channels
from tconv_bench.simd.lines import WOVEN, add_lines, sum_lines, weave_lines
from tconv_bench.simd.places import gather, move_elements, put_channels
from tconv_bench.simd.resampling import gather_pixels, resample_rows, weigh_pixels, weigh_runs
from tconv_bench.simd.rows import RUN_FIELDS, call_rows, native_rows
from tconv_bench.simd.shuffled_tiles import SHUFFLED, call_shuffle, native_shuffle
from tconv_bench.simd.sums import CHAINS, difference_to_itself, multiply_add_chains, total
from tconv_bench.simd.taps import PIECE_FIELDS, copy_columns
from tconv_bench.simd.tiles import (
    HEIGHTS,
    MR,
    NV,
    TALL,
    WIDE,
    call_sum_taps,
    call_sum_taps_apart,
    call_sum_taps_below,
    native_sum_taps,
    rank_k,
    sum_taps,
)
from tconv_bench.simd.transposes import (
    add_transposed,
    call_squares,
    call_transpose,
    native_squares,
    native_transpose,
    transpose,
    transpose_rows,
)
from tconv_bench.simd.vectors import LINE_BYTES, VECTOR_BYTES, vector_bytes
from tconv_bench.simd.windows import max_gathered, max_lines, max_window
from tconv_bench.simd.winograd import (
    call_weights,
    combine_neighbours,
    combine_outputs,
    combine_pixel_rows,
    combine_pixels,
    combine_products,
    combine_weights,
    combine_window,
    native_weights,
)

__all__ = [
    "CHAINS",
    "HEIGHTS",
    "INTERLEAVED",
    "LINE_BYTES",
    "MR",
    "NV",
    "PIECE_FIELDS",
    "RUN_FIELDS",
    "SHUFFLED",
    "TALL",
    "VECTOR_BYTES",
    "WIDE",
    "WOVEN",
    "add_lines",
    "add_rows",
    "add_transposed",
    "as_pointer",
    "call_rows",
    "call_shuffle",
    "call_squares",
    "call_sum_columns",
    "call_sum_taps",
    "call_sum_taps_apart",
    "call_sum_taps_below",
    "call_task",
    "call_transpose",
    "call_weights",
    "clear",
    "combine_neighbours",
    "combine_outputs",
    "combine_pixel_rows",
    "combine_pixels",
    "combine_products",
    "combine_weights",
    "combine_window",
    "copy",
    "copy_columns",
    "copy_grid",
    "copy_rows",
    "copy_strided",
    "deinterleave",
    "difference_to_itself",
    "finish_streams",
    "gather",
    "gather_pixels",
    "halve_rows",
    "interleave",
    "max_gathered",
    "max_lines",
    "max_window",
    "move_elements",
    "multiply_add_chains",
    "native_rows",
    "native_shuffle",
    "native_squares",
    "native_sum_columns",
    "native_sum_taps",
    "native_transpose",
    "native_weights",
    "part_channels",
    "prefetch_to_read",
    "prefetch_to_write",
    "put_channels",
    "rank_k",
    "resample_rows",
    "spread",
    "stamp_3x3_by_2",
    "stream",
    "sum_columns",
    "sum_lines",
    "sum_taps",
    "take_number",
    "total",
    "transpose",
    "transpose_rows",
    "vector_bytes",
    "weave_lines",
    "weigh_pixels",
    "weigh_runs",
]
