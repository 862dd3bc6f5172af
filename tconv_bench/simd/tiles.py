"""The register tiles: ``rank_k`` for strided views, ``sum_taps`` whose sums stay in registers over taps and channels.

``rank_k`` computes ``C[m, n] (+)= sum_k A[m, k] * B[k, n]`` on strided views: ``n`` runs over contiguous vector lanes of B
and C, A is read scalar by scalar and broadcast. Its core is a tile of ``MR x NV`` vector accumulators (Goto & van de
Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). Every element's sum runs over k in order, so a
result depends neither on the tile that computed it nor on the number of threads. Floats are fused multiply-adds where the
processor has them; integers wrap as NumPy's do.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic

from tconv_bench.jit import native
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

MR = 6
# 32 vector registers with AVX-512 hold 6 x 4 accumulators, 4 of B and a broadcast; 16 registers hold 6 x 2.
NV = 4 if VECTOR_BYTES == 64 else 2


def _tile(mr: int, nv: int, masked: bool):
    """Intrinsic: C[mr, nv vectors] (+)= A[mr, k] @ B[k, nv vectors]; ``masked`` limits the single vector to n lanes."""

    def codegen(context, builder, signature, args):
        a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, k, add, n = args
        array_a, array_b, array_c = signature.args[0], signature.args[4], signature.args[7]
        element = context.get_data_type(array_a.dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(element, lanes)
        memory = Memory(builder, vector, size)
        data_a, data_b, data_c = (
            context.make_array(array)(context, builder, value).data
            for array, value in ((array_a, a), (array_b, b), (array_c, c))
        )
        i64 = ir.IntType(64)
        mask = None
        if masked:
            mask = first_lanes(builder, lanes, n)
        c_pointers = []
        for m in range(mr):
            row = memory.address(data_c, builder.add(c_off, builder.mul(c_row, ir.Constant(i64, m))))
            c_pointers += [memory.address(row, ir.Constant(i64, v * lanes)) for v in range(nv)]

        start = builder.block
        add_block = builder.append_basic_block("tile_load")
        init_block = builder.append_basic_block("tile_init")
        loop = builder.append_basic_block("tile_loop")
        end = builder.append_basic_block("tile_end")
        builder.cbranch(add, add_block, init_block)
        builder.position_at_end(add_block)
        loaded = [memory.load(p, mask) for p in c_pointers]
        builder.branch(init_block)

        builder.position_at_end(init_block)
        initial = []
        for value in loaded:
            phi = builder.phi(vector)
            phi.add_incoming(value, add_block)
            phi.add_incoming(ir.Constant(vector, None), start)
            initial.append(phi)
        has_work = builder.icmp_signed(">", k, ir.Constant(i64, 0))
        builder.cbranch(has_work, loop, end)

        builder.position_at_end(loop)
        index = builder.phi(i64)
        at_a, at_b = builder.phi(i64), builder.phi(i64)
        sums = [builder.phi(vector) for _ in c_pointers]
        for phi, first in ((index, ir.Constant(i64, 0)), (at_a, a_off), (at_b, b_off), *zip(sums, initial)):
            phi.add_incoming(first, init_block)
        b_row = memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, ir.Constant(i64, v * lanes)), mask) for v in range(nv)]
        following = []
        for m in range(mr):
            at = builder.add(at_a, builder.mul(a_row, ir.Constant(i64, m)))
            broadcast = splat(builder, builder.load(memory.address(data_a, at), align=size), vector)
            following += [multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index = builder.add(index, ir.Constant(i64, 1))
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", next_index, k), loop, end)

        builder.position_at_end(end)
        totals = []
        for pointer, before, after in zip(c_pointers, initial, following):
            total = builder.phi(vector)
            total.add_incoming(before, init_block)
            total.add_incoming(after, loop)
            totals.append((pointer, total))
        for pointer, total in totals:
            memory.store(total, pointer, mask)
        return context.get_dummy_value()

    def typing(typingctx, a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, k, add, n):
        i = types.int64
        return types.void(a, i, i, i, b, i, i, c, i, i, i, types.boolean, i), codegen

    return intrinsic(typing)


# Module-level names: Numba's cache misses on an intrinsic that a closure holds.
_tile_6_full = _tile(6, NV, False)
_tile_2_full = _tile(2, NV, False)
_tile_1_full = _tile(1, NV, False)
_tile_6_tail = _tile(6, 1, True)
_tile_2_tail = _tile(2, 1, True)
_tile_1_tail = _tile(1, 1, True)


@njit(nogil=True)
def rank_k(m, n, k, a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, add):
    """C[m, n] = (C if add else 0) + sum over k of A[m, k] * B[k, n].

    Offsets and strides count elements: A[i, p] stands at ``a_off + i*a_row + p*a_k``, B[p, j] at ``b_off + p*b_k + j``,
    C[i, j] at ``c_off + i*c_row + j``. The arrays share one dtype; nothing outside the named elements is touched.
    """
    lanes = VECTOR_BYTES // a.itemsize
    wide = NV * lanes
    j = 0
    while j < n:
        left = n - j
        i = 0
        if left >= wide:
            while i + 6 <= m:
                _tile_6_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 6
            while i + 2 <= m:
                _tile_2_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 2
            if i < m:
                _tile_1_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
            j += wide
        else:
            while i + 6 <= m:
                _tile_6_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 6
            while i + 2 <= m:
                _tile_2_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 2
            if i < m:
                _tile_1_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
            j += lanes


def _taps_tile(mr: int, nv: int):
    """Intrinsic: C[mr, nv vectors] = start + sum over taps t and k of A_t[k, mr] * B_t[k, nv vectors], sums in registers.

    A_t starts at ``a_at + taps[2t]``, B_t at ``b_at + taps[2t + 1]``; ``start`` is C itself, or ``bias[m]`` in every lane.
    Tiles of 8 vectors and more ask for a cache line at each step, those of 12 for two more, one to write and one to read.
    One tile after the other, with few instructions between them: the processor holds 320, of which a step has 40, so that what
    a few steps have is all that the multiply-adds can hide.
    """
    fetches, streams = mr * nv >= 12, mr * nv >= 8

    def codegen(context, builder, signature, args):
        _, a_at, a_k, _, b_at, b_k, _, first, count, k, from_c, _, bias_at, _, c_at, c_row, _, *more = args
        ahead_at, ahead_last, stream, stream_step, tiles, *steps = more
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        data_a, data_b, data_taps, data_bias, data_c, data_ahead = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 6, 11, 13, 16)
        )

        def constant(value):
            return ir.Constant(i64, value)

        def c_pointers():
            # from the first one again where they are used: they would be kept in memory meanwhile
            for m in range(mr):
                row = memory.address(data_c, builder.add(c_at, builder.mul(c_row, constant(m))))
                yield from (memory.address(row, constant(v * lanes)) for v in range(nv))

        names = ("tile", "load", "bias", "start", "tap", "k", "next", "store", "end")
        tile_loop, load, fill, begin, tap_loop, k_loop, tap_end, store, end = (
            builder.append_basic_block(f"taps_{name}") for name in names
        )
        has_work = builder.and_(builder.icmp_signed(">", count, constant(0)), builder.icmp_signed(">", k, constant(0)))
        asked = builder.mul(count, k)
        start = builder.block
        builder.cbranch(builder.icmp_signed(">", tiles, constant(0)), tile_loop, end)
        builder.position_at_end(tile_loop)
        number = phi_from(builder, constant(0), start)
        moved = [phi_from(builder, value, start) for value in (a_at, b_at, c_at, stream)]
        first_ahead = phi_from(builder, ahead_at, start)
        a_at, b_at, c_at, stream = moved
        builder.cbranch(from_c, load, fill)
        builder.position_at_end(load)
        loaded = [memory.load(p) for p in c_pointers()]
        builder.branch(begin)
        builder.position_at_end(fill)
        biases = [
            splat(builder, builder.load(memory.address(data_bias, builder.add(bias_at, constant(m)))), vector)
            for m in range(mr)
        ]
        builder.branch(begin)

        builder.position_at_end(begin)
        initial = []
        for number_of, value in enumerate(loaded):
            phi = phi_from(builder, value, load)
            phi.add_incoming(biases[number_of // nv], fill)
            initial.append(phi)
        builder.cbranch(has_work, tap_loop, store)

        builder.position_at_end(tap_loop)
        tap = phi_from(builder, constant(0), begin)
        outer = [phi_from(builder, value, begin) for value in initial]
        outer_ahead, outer_stream = phi_from(builder, first_ahead, begin), phi_from(builder, stream, begin)
        entry = builder.mul(builder.add(first, tap), constant(2))
        a_tap = builder.add(a_at, builder.load(builder.gep(data_taps, [entry])))
        b_tap = builder.add(b_at, builder.load(builder.gep(data_taps, [builder.add(entry, constant(1))])))
        builder.branch(k_loop)

        builder.position_at_end(k_loop)
        index, at_a, at_b = (phi_from(builder, value, tap_loop) for value in (constant(0), a_tap, b_tap))
        sums = [phi_from(builder, value, tap_loop) for value in outer]
        ahead, streamed = phi_from(builder, outer_ahead, tap_loop), phi_from(builder, outer_stream, tap_loop)
        next_ahead = ahead
        if fetches:
            for place, for_writing in ((0, True), (1, False)):
                pair = builder.add(builder.mul(ahead, constant(2)), constant(place))
                ask_for(builder, builder.load(builder.gep(data_ahead, [pair])), for_writing)
            one_more = builder.add(ahead, constant(1))
            next_ahead = builder.select(builder.icmp_signed("<", ahead, ahead_last), one_more, ahead)
        if streams:
            ask_for(builder, streamed, False)
        next_stream = builder.add(streamed, stream_step)
        a_column, b_row = memory.address(data_a, at_a), memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, constant(v * lanes))) for v in range(nv)]
        following = []
        for m in range(mr):
            broadcast = splat(builder, builder.load(memory.address(a_column, constant(m)), align=size), vector)
            following += [multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index = builder.add(index, constant(1))
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)), (ahead, next_ahead),
            (streamed, next_stream), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, k_loop)
        keep_rolled(builder, builder.cbranch(builder.icmp_signed("<", next_index, k), k_loop, tap_end))

        builder.position_at_end(tap_end)
        next_tap = builder.add(tap, constant(1))
        for phi, value in ((tap, next_tap), (outer_ahead, next_ahead), (outer_stream, next_stream), *zip(outer, following)):
            phi.add_incoming(value, tap_end)
        builder.cbranch(builder.icmp_signed("<", next_tap, count), tap_loop, store)

        builder.position_at_end(store)
        totals = []
        for before, after in zip(initial, following):
            total = phi_from(builder, before, begin)
            total.add_incoming(after, tap_end)
            totals.append(total)
        for pointer, total in zip(c_pointers(), totals):
            memory.store(total, pointer)
        for phi, step in zip(moved, steps):
            phi.add_incoming(builder.add(phi, step), store)
        next_first = builder.add(first_ahead, asked)
        within = builder.icmp_signed("<", next_first, ahead_last)
        first_ahead.add_incoming(builder.select(within, next_first, ahead_last), store)
        next_number = builder.add(number, constant(1))
        number.add_incoming(next_number, store)
        builder.cbranch(builder.icmp_signed("<", next_number, tiles), tile_loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(
        typingctx, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, from_c, bias, bias_at, c, c_at, c_row, ahead, ahead_at,
        ahead_last, stream, stream_step, tiles, a_step, b_step, c_step, f_step,
    ):  # fmt: skip
        i = types.int64
        rest = (i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, ahead, i, i, i, i, i, i, i, i, i)
        return types.void(a, i, i, b, *rest), codegen

    return intrinsic(typing)


# Tiles of ``sum_taps``: 32 registers hold 12 x 2 or 6 x 4 accumulators, 16 registers 6 x 2.
TALL = 12 if VECTOR_BYTES == 64 else 6
WIDE = 4 if VECTOR_BYTES == 64 else 2
#: heights of a tile and the vectors along it, dearest first; each height also has 1 vector, for the end of a row
HEIGHTS = tuple(h for h in (12, 8, 6, 4, 3, 2, 1) if h <= TALL)
_taps_12_2 = _taps_tile(TALL, 2)
_taps_12_1 = _taps_tile(TALL, 1)
_taps_8_2 = _taps_tile(min(8, TALL), 2)
_taps_8_1 = _taps_tile(min(8, TALL), 1)
_taps_6_4 = _taps_tile(6, WIDE)
_taps_6_2 = _taps_tile(6, 2)
_taps_6_1 = _taps_tile(6, 1)
_taps_4_4 = _taps_tile(4, WIDE)
_taps_4_2 = _taps_tile(4, 2)
_taps_4_1 = _taps_tile(4, 1)
_taps_3_4 = _taps_tile(3, WIDE)
_taps_3_2 = _taps_tile(3, 2)
_taps_3_1 = _taps_tile(3, 1)
_taps_2_4 = _taps_tile(2, WIDE)
_taps_2_2 = _taps_tile(2, 2)
_taps_2_1 = _taps_tile(2, 1)
_taps_1_4 = _taps_tile(1, WIDE)
_taps_1_2 = _taps_tile(1, 2)
_taps_1_1 = _taps_tile(1, 1)


@njit(nogil=True)
def sum_taps(
    m, vectors, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
    n, da, db, dc, fn
):  # fmt: skip
    """C[i, j] = start + sum over taps t and p of A_t[p, i] * B_t[p, j], with all sums in registers.

    i < m, a member of ``HEIGHTS``; j counts ``vectors`` whole vectors, all of which are read and written: 1, 2, or ``WIDE``
    where m <= 6. ``start`` is C[i, j] where ``add``, else ``bias[bias_at + i]``. Tap t of ``first ... first + count - 1``
    has A_t[p, i] at ``a_at + taps[2t] + p*a_k + i`` and B_t[p, j] at ``b_at + taps[2t + 1] + p*b_k + j``, p < k; C[i, j]
    stands at ``c_at + i*c_row + j``. While they sum, the taller tiles ask for a cache line to write and one to read at each
    step: the addresses ``q[2i]`` and ``q[2i + 1]`` from pair ``q0`` to ``q1``, which exists and is asked for
    again when there are no more; and for the line to read at address ``f``, ``df`` bytes further at each step.

    So ``n`` times, with A, B and C ``da``, ``db`` and ``dc`` elements further each time and ``f`` by ``fn`` bytes.
    """
    if vectors == 2:
        if m == 12:
            _taps_12_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                       n, da, db, dc, fn)  # fmt: skip
        elif m == 8:
            _taps_8_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 6:
            _taps_6_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 4:
            _taps_4_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 3:
            _taps_3_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 2:
            _taps_2_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        else:
            _taps_1_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
    elif vectors == 1:
        if m == 12:
            _taps_12_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                       n, da, db, dc, fn)  # fmt: skip
        elif m == 8:
            _taps_8_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 6:
            _taps_6_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 4:
            _taps_4_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 3:
            _taps_3_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 2:
            _taps_2_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        else:
            _taps_1_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
    else:
        if m == 6:
            _taps_6_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 4:
            _taps_4_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 3:
            _taps_3_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        elif m == 2:
            _taps_2_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip
        else:
            _taps_1_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df,
                      n, da, db, dc, fn)  # fmt: skip


def _native_sum_taps(
    m, vectors, tiles, a_step, b_step, c_step, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at,
    c_row, q, q0, q1, f, df, f_step
):  # fmt: skip
    sum_taps(m, vectors, carray(a, 1), a_at, a_k, carray(b, 1), b_at, b_k, carray(taps, 1), first, count, k, add != 0,
             carray(bias, 1), bias_at, carray(c, 1), c_at, c_row, carray(q, 1), q0, q1, f, df, tiles, a_step, b_step, c_step,
             f_step)  # fmt: skip


@cache
def native_sum_taps(dtype: str) -> Any:
    """``sum_taps`` as machine code of its own; kernels take its ``address`` to ``call_sum_taps`` and its like."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    signature = (i, i, i, i, i, i, p, i, i, p, i, i, t, i, i, i, i, p, i, p, i, i, t, i, i, i, i, i)
    return native(types.void(*signature), _native_sum_taps)


def _call(context, builder, head, rest, kinds, steps, f_step=None):
    """Call ``native_sum_taps`` at an address: ``head`` is that, m, vectors and tiles; ``rest`` from a on, of these ``kinds``.

    ``steps`` are A's, B's and C's between tiles. The lines that a tile asks for follow its predecessor's without an ``f_step``.
    """
    count, k, df = rest[8], rest[9], rest[20]
    f_step = f_step or builder.mul(builder.mul(count, k), df)
    i = types.int64
    return call_address(context, builder, types.void(*(i,) * 7, *kinds, i), (*head, *steps, *rest, f_step))


@intrinsic
def call_sum_taps(
    typingctx, address, m, vectors, tiles, lanes, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c,
    c_at, c_row, q, q0, q1, f, df
):  # fmt: skip
    """``sum_taps`` through the address of its machine code, for ``tiles`` of ``vectors`` with so many lanes side by side.

    The lines to read of a tile follow those of its predecessor.
    """

    def codegen(context, builder, signature, args):
        step = builder.mul(args[2], args[4])  # vectors, lanes
        return _call(context, builder, args[:4], args[5:], signature.args[5:], (step.type(0), step, step))

    i = types.int64
    rest = (i, i, i, i, a, i, i, b, i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, q, i, i, i, i)
    return types.void(i, *rest), codegen


@intrinsic
def call_sum_taps_below(
    typingctx, address, m, vectors, tiles, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at,
    c_row, q, q0, q1, f, df
):  # fmt: skip
    """``call_sum_taps`` for ``tiles`` of ``m`` rows below each other, of the same B."""

    def codegen(context, builder, signature, args):
        m, c_row = args[1], args[19]
        return _call(context, builder, args[:4], args[4:], signature.args[4:], (m, m.type(0), builder.mul(m, c_row)))

    i = types.int64
    rest = (i, i, i, a, i, i, b, i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, q, i, i, i, i)
    return types.void(i, *rest), codegen


@intrinsic
def call_sum_taps_apart(
    typingctx, address, m, vectors, tiles, lanes, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c,
    c_at, c_row, q, q0, q1, f, df, f_step
):  # fmt: skip
    """``call_sum_taps`` where the lines to read of a tile begin ``f_step`` bytes after those of its predecessor."""

    def codegen(context, builder, signature, args):
        step = builder.mul(args[2], args[4])  # vectors, lanes
        return _call(context, builder, args[:4], args[5:-1], signature.args[5:-1], (step.type(0), step, step), args[-1])

    i = types.int64
    rest = (i, i, i, i, a, i, i, b, i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, q, i, i, i, i, i)
    return types.void(i, *rest), codegen
