"""Tiles of kernel = stride: their sums are interleaved in registers and stored where the output has them."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, types
from numba.extending import intrinsic

from tconv_bench.jit import native
from tconv_bench.simd.interleaving import interleaved
from tconv_bench.simd.tiles import TALL, WIDE
from tconv_bench.simd.vectors import (
    VECTOR_BYTES,
    Memory,
    ask_for,
    call_address,
    first_lanes,
    keep_rolled,
    multiply_add,
    phi_from,
    splat,
)


def _shuffle_tile(mr: int, nv: int, stride: int):
    """Intrinsic: ``mr`` rows of sums over k, each ``stride`` of them interleaved in registers and written to ``out`` at once.

    Row m at lane j is bias[m] + sum over p of a[a_at + p*a_k + m] * b[b_at + p*b_k + j]; ``stride`` rows make a unit, whose
    element e = j*stride + r, of row r, goes to out[units[u] + segments[0] + e] where segments[1] <= e < segments[2], and so on
    for each triple of segments. Each step asks for one of the cache lines to write, ``lines`` elements from the place of the
    first segment and then of the last one, and for the line to read at address ``f``, ``df`` bytes further each time.
    """
    per_unit = nv * stride

    def codegen(context, builder, signature, args):
        _, a_at, a_k, _, b_at, b_k, k, _, bias_at, _, _, unit_at, _, segment_at, segment_end, _, lines_count, f, df = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        data_a, data_b, data_bias, data_out, data_units, data_segments, data_lines = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 7, 9, 10, 12, 15)
        )

        def constant(value):
            return ir.Constant(i64, value)

        def number(array, index, more=0):
            return builder.load(builder.gep(array, [builder.add(index, constant(more))]))

        biases = [
            splat(builder, builder.load(memory.address(data_bias, builder.add(bias_at, constant(m)))), vector)
            for m in range(mr)
        ]
        first_place = number(data_segments, segment_at)
        last_place = number(data_segments, builder.sub(segment_end, constant(3)))
        start = builder.block
        loop, store, whole, part, after, end = (
            builder.append_basic_block(f"shuffle_{name}") for name in ("k", "store", "whole", "part", "after", "end")
        )
        builder.branch(loop)

        builder.position_at_end(loop)
        zero = constant(0)
        index, at_a, at_b, line, place, fetched = (
            phi_from(builder, value, start) for value in (zero, a_at, b_at, zero, first_place, f)
        )
        sums = [phi_from(builder, biases[m], start) for m in range(mr) for _ in range(nv)]
        wanted = builder.gep(data_out, [builder.add(place, number(data_lines, line))])
        ask_for(builder, builder.ptrtoint(wanted, i64), True)
        ask_for(builder, fetched, False)
        a_column, b_row = memory.address(data_a, at_a), memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, constant(v * lanes))) for v in range(nv)]
        following = []
        for m in range(mr):
            broadcast = splat(builder, builder.load(memory.address(a_column, constant(m)), align=size), vector)
            following += [multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index, next_line = builder.add(index, constant(1)), builder.add(line, constant(1))
        again = builder.icmp_signed(">=", next_line, lines_count)
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)),
            (line, builder.select(again, zero, next_line)), (place, builder.select(again, last_place, place)),
            (fetched, builder.add(fetched, df)), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, loop)
        keep_rolled(builder, builder.cbranch(builder.icmp_signed("<", next_index, k), loop, store))

        builder.position_at_end(store)
        segment = phi_from(builder, segment_at, loop)
        to, low, high = (number(data_segments, segment, i) for i in range(3))
        values = [
            interleaved(builder, [following[(u * stride + r) * nv + v] for r in range(stride)])
            for u in range(mr // stride)
            for v in range(nv)
        ]
        places = [memory.address(data_out, builder.add(to, number(data_units, unit_at, u))) for u in range(mr // stride)]
        complete = builder.and_(
            builder.icmp_signed("==", low, zero), builder.icmp_signed("==", high, constant(per_unit * lanes))
        )
        builder.cbranch(complete, whole, part)

        def put(vector_number, mask):
            v, r = divmod(vector_number, stride)
            for u in range(mr // stride):
                memory.store(values[u * nv + v][r], memory.address(places[u], constant(vector_number * lanes)), mask)

        builder.position_at_end(whole)
        for vector_number in range(per_unit):
            put(vector_number, None)
        builder.branch(after)
        builder.position_at_end(part)
        for vector_number in range(per_unit):
            # of narrow rows a segment has few of the vectors
            met = builder.and_(
                builder.icmp_signed("<", low, constant((vector_number + 1) * lanes)),
                builder.icmp_signed(">", high, constant(vector_number * lanes)),
            )
            with builder.if_then(met):
                before, below = (first_lanes(builder, lanes, bound, vector_number * lanes) for bound in (low, high))
                put(vector_number, builder.and_(builder.not_(before), below))
        builder.branch(after)
        builder.position_at_end(after)
        next_segment = builder.add(segment, constant(3))
        segment.add_incoming(next_segment, after)
        builder.cbranch(builder.icmp_signed("<", next_segment, segment_end), store, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(
        typingctx, a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, first, last, lines, count, f, df
    ):  # fmt: skip
        i = types.int64
        return types.void(a, i, i, b, i, i, i, bias, i, out, units, i, segments, i, i, lines, i, i, i), codegen

    return intrinsic(typing)


#: heights of the tiles of ``shuffle`` by their stride, and the vectors along them
SHUFFLED = {
    stride: {height: WIDE if height <= 6 else 2 for height in found if height <= TALL}
    for stride, found in ((2, (12, 8, 6, 4, 2)), (3, (12, 6, 3)), (4, (12, 8, 4)))
}
if VECTOR_BYTES == 64:
    del SHUFFLED[2][6]
_shuffle_12_2_by_2 = _shuffle_tile(TALL, 2, 2)
_shuffle_8_2_by_2 = _shuffle_tile(min(8, TALL), 2, 2)
_shuffle_4_4_by_2 = _shuffle_tile(4, WIDE, 2)
_shuffle_2_4_by_2 = _shuffle_tile(2, WIDE, 2)
_shuffle_12_2_by_3 = _shuffle_tile(TALL, 2, 3)
_shuffle_6_4_by_3 = _shuffle_tile(6, WIDE, 3)
_shuffle_3_4_by_3 = _shuffle_tile(3, WIDE, 3)
_shuffle_12_2_by_4 = _shuffle_tile(12 if TALL == 12 else 4, 2, 4)
_shuffle_8_2_by_4 = _shuffle_tile(8 if TALL == 12 else 4, 2, 4)
_shuffle_4_4_by_4 = _shuffle_tile(4, WIDE, 4)


def _native_shuffle_2(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == TALL:
            _shuffle_12_2_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 8:
            _shuffle_8_2_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 4:
            _shuffle_4_4_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_2_4_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


def _native_shuffle_3(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == TALL:
            _shuffle_12_2_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 6:
            _shuffle_6_4_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_3_4_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


def _native_shuffle_4(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == 12:
            _shuffle_12_2_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 8:
            _shuffle_8_2_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_4_4_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


@cache
def native_shuffle(dtype: str, stride: int) -> Any:
    """Tiles side by side of rows that are interleaved ``stride`` by ``stride``, as machine code for ``call_shuffle``."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    signature = types.void(i, i, p, i, i, p, i, i, i, i, p, i, p, t, i, t, t, t, i, i, i, i)
    return native(signature, {2: _native_shuffle_2, 3: _native_shuffle_3, 4: _native_shuffle_4}[stride])


@intrinsic
def call_shuffle(
    typingctx, address, m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts,
    lines, count, f, df, f_step
):  # fmt: skip
    """``native_shuffle``'s machine code at an address: ``tiles`` of ``m`` rows, ``b_step`` elements of b from one to the next.

    The lines to read begin ``f_step`` bytes further for each tile.

    ``starts``: where each tile's segments begin, and where the last one's end; the rest as in ``_shuffle_tile``.
    """

    i = types.int64
    rest = (i, i, a, i, i, b, i, i, i, i, bias, i, out, units, i, segments, starts, lines, i, i, i, i)
    return types.void(i, *rest), call_address
