"""Tiles of few rows that copy, on the way, what the next ones read."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic

from tconv_bench.jit import native
from tconv_bench.simd.tiles import TALL
from tconv_bench.simd.vectors import (
    VECTOR_BYTES,
    Memory,
    ask_for,
    call_address,
    keep_rolled,
    multiply_add,
    phi_from,
    splat,
)


def _column_tile(mr: int):
    """Intrinsic: ``sum_columns`` of so many rows."""

    def codegen(context, builder, signature, args):
        _, a_at, a_k, _, b_at, b_k, b_v, k, add, _, c_at, c_row, _, *copied, stream, stream_step, stream_turn = args
        copy_at, copy_step, copy_turn, _, to, to_step, to_turn, before_turn, turn = copied
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        data_a, data_b, data_c, data_source, data_target = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 9, 12, 16)
        )

        def constant(value):
            return ir.Constant(i64, value)

        c_pointers = []
        for m in range(mr):
            row = memory.address(data_c, builder.add(c_at, builder.mul(c_row, constant(m))))
            c_pointers += [memory.address(row, constant(v * lanes)) for v in range(2)]
        start = builder.block
        load, loop, end = (builder.append_basic_block(f"columns_{name}") for name in ("load", "k", "end"))
        begin = builder.append_basic_block("columns_begin")
        builder.cbranch(add, load, begin)
        builder.position_at_end(load)
        loaded = [memory.load(pointer) for pointer in c_pointers]
        builder.branch(begin)
        builder.position_at_end(begin)
        initial = []
        for value in loaded:
            phi = phi_from(builder, value, load)
            phi.add_incoming(ir.Constant(vector, None), start)
            initial.append(phi)
        builder.branch(loop)

        builder.position_at_end(loop)
        index, at_a, at_b, from_, onto, asked, left = (
            phi_from(builder, value, begin) for value in (constant(0), a_at, b_at, copy_at, to, stream, before_turn)
        )
        sums = [phi_from(builder, value, begin) for value in initial]
        ask_for(builder, asked, False)
        memory.store(memory.load(memory.address(data_source, from_)), memory.address(data_target, onto))
        a_column = memory.address(data_a, at_a)
        b_vectors = [memory.load(memory.address(data_b, at)) for at in (at_b, builder.add(at_b, b_v))]
        following = []
        for m in range(mr):
            broadcast = splat(builder, builder.load(memory.address(a_column, constant(m)), align=size), vector)
            following += [multiply_add(builder, broadcast, b_vectors[v], sums[2 * m + v]) for v in range(2)]
        next_index, next_left = builder.add(index, constant(1)), builder.sub(left, constant(1))
        turns = builder.icmp_signed("==", next_left, constant(0))
        places = (from_, copy_step, copy_turn), (onto, to_step, to_turn), (asked, stream_step, stream_turn)
        moved = [(phi, builder.add(phi, builder.select(turns, turned, step))) for phi, step, turned in places]
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)), *moved,
            (left, builder.select(turns, turn, next_left)), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, loop)
        keep_rolled(builder, builder.cbranch(builder.icmp_signed("<", next_index, k), loop, end))

        builder.position_at_end(end)
        for pointer, total in zip(c_pointers, following):
            memory.store(total, pointer)
        return context.get_dummy_value()

    def typing(
        typingctx, a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, source, copy_at, copy_step, copy_turn, target, to,
        to_step, to_turn, before_turn, turn, stream, stream_step, stream_turn,
    ):  # fmt: skip
        i = types.int64
        rest = (types.boolean, c, i, i, source, i, i, i, target, i, i, i, i, i, i, i, i)
        return types.void(a, i, i, b, i, i, i, i, *rest), codegen

    return intrinsic(typing)


_columns_12 = _column_tile(TALL)
_columns_8 = _column_tile(min(8, TALL))
_columns_6 = _column_tile(6)
_columns_4 = _column_tile(4)
_columns_3 = _column_tile(3)
_columns_2 = _column_tile(2)
_columns_1 = _column_tile(1)


@njit(nogil=True)
def sum_columns(
    m, a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step, t_turn, left, turn, f,
    df, f_turn
):  # fmt: skip
    """C[i, j] = (C[i, j] where ``add``) + sum over p of A[p, i] * B[p, j] for i < m and two vectors of j, k >= 1 steps.

    m is a member of ``HEIGHTS``. A[p, i] stands at ``a_at + p*a_k + i``, the v-th vector of B[p] at ``b_at + p*b_k + v*b_v``,
    that of C[i] at ``c_at + i*c_row + v*lanes``. Each step copies the vector at ``s_at`` of ``s`` to ``t_at`` of ``t`` and asks
    for the cache line to read at address ``f``, which move on by ``s_step``, ``t_step`` and ``df``; after ``left`` steps, and
    then after each ``turn``, by ``s_turn``, ``t_turn`` and ``f_turn`` instead: to the next row.
    """
    if m == 12:
        _columns_12(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                    t_turn, left, turn, f, df, f_turn)  # fmt: skip
    elif m == 8:
        _columns_8(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip
    elif m == 6:
        _columns_6(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip
    elif m == 4:
        _columns_4(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip
    elif m == 3:
        _columns_3(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip
    elif m == 2:
        _columns_2(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip
    else:
        _columns_1(a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
                   t_turn, left, turn, f, df, f_turn)  # fmt: skip


def _native_sum_columns(
    m, a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step, t_turn, left, turn, f,
    df, f_turn
):  # fmt: skip
    sum_columns(m, carray(a, 1), a_at, a_k, carray(b, 1), b_at, b_k, b_v, k, add != 0, carray(c, 1), c_at, c_row, carray(s, 1),
                s_at, s_step, s_turn, carray(t, 1), t_at, t_step, t_turn, left, turn, f, df, f_turn)  # fmt: skip


@cache
def native_sum_columns(dtype: str) -> Any:
    """``sum_columns`` as machine code of its own; kernels take its ``address`` to ``call_sum_columns``."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    signature = (i, p, i, i, p, i, i, i, i, i, p, i, i, p, i, i, i, p, i, i, i, i, i, i, i, i)
    return native(types.void(*signature), _native_sum_columns)


@intrinsic
def call_sum_columns(
    typingctx, address, m, a, a_at, a_k, b, b_at, b_k, b_v, k, add, c, c_at, c_row, s, s_at, s_step, s_turn, t, t_at, t_step,
    t_turn, left, turn, f, df, f_turn
):  # fmt: skip
    """``sum_columns`` through the address of its machine code."""
    i = types.int64
    rest = (i, a, i, i, b, i, i, i, i, i, c, i, i, s, i, i, i, t, i, i, i, i, i, i, i, i)
    return types.void(i, *rest), call_address
