"""Blocks transposed in registers."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic

from tconv_bench.jit import native
from tconv_bench.simd.vectors import VECTOR_BYTES, Memory, Vectors, call_address, first_lanes


def transposed(builder, values):
    """The rows of a square of vectors as its columns."""
    values, lanes, half = list(values), len(values), 1
    index = ir.VectorType(ir.IntType(32), lanes)
    while half < lanes:
        # exchange the off-diagonal quarters of every 2*half x 2*half block
        low = ir.Constant(index, [lane if not lane & half else lanes + lane - half for lane in range(lanes)])
        high = ir.Constant(index, [lane + half if not lane & half else lanes + lane for lane in range(lanes)])
        for i in range(lanes):
            if not i & half:
                a, b = values[i], values[i | half]
                values[i], values[i | half] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        half *= 2
    return values


@intrinsic
def _transpose_block(typingctx, columns, source, at, target, places, first, shift, rows, width, written):
    """target[places[first + k] + shift + j] = source[at + columns*j + k], j < rows, k < width, and 0 for rows <= j < written.

    All three counts are at most the lanes of a vector; a place below zero is left out.
    """

    def codegen(context, builder, signature, args):
        columns, _, at, _, _, first, shift, rows, width, written = args
        element = context.get_data_type(signature.args[1].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        source, target, places = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (1, 3, 4))
        empty = ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)
        mask = first_lanes(builder, lanes, width)
        values = []
        for j in range(lanes):
            exists = builder.icmp_signed("<", ir.Constant(i64, j), rows)
            place = builder.add(at, builder.mul(columns, ir.Constant(i64, j)))
            values.append(memory.load(memory.address(source, place), builder.select(exists, mask, empty)))
        stored = first_lanes(builder, lanes, written)
        for k, value in enumerate(transposed(builder, values)):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(i64, k), width)):
                place = builder.load(builder.gep(places, [builder.add(first, ir.Constant(i64, k))]))
                with builder.if_then(builder.icmp_signed(">=", place, ir.Constant(i64, 0))):
                    memory.store(value, memory.address(target, builder.add(place, shift)), stored)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, source, i, target, places, i, i, i, i, i), codegen


@njit(nogil=True)
def transpose(step, width, source, at, target, places, shift, rows, written):
    """target[places[k] + shift + j] = source[at + step*j + k] for j < rows and k < width, and 0 for rows <= j < written.

    A place below zero is left out.
    """
    lanes = VECTOR_BYTES // source.itemsize
    for j in range(0, written, lanes):
        for k in range(0, width, lanes):
            _transpose_block(
                step, source, at + j * step + k, target, places, k, shift + j, min(lanes, rows - j), min(lanes, width - k),
                min(lanes, written - j),
            )  # fmt: skip


def _transpose_square(whole: bool):
    """Intrinsic: target[to + k*column_step + j] = source[at + j*row_step + k] for j < rows, k < columns.

    Both are at most a vector's lanes; where ``whole``, ``columns`` is taken for that and all lanes are written for each k.
    """

    def codegen(context, builder, signature, args):
        _, at, row_step, _, to, column_step, rows, columns = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        empty = ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)
        mask, stored = (None, None) if whole else (first_lanes(builder, lanes, columns), first_lanes(builder, lanes, rows))
        values = []
        # steps are added, not multiplied: 16 products an end take as long as a quarter of the exchanges
        for j in range(lanes):
            exists = builder.icmp_signed("<", constant(j), rows)
            if j > 0:
                at = builder.add(at, builder.select(exists, row_step, constant(0)))
            own = None if whole else builder.select(exists, mask, empty)
            values.append(memory.load(memory.address(source, at), own))
        for k, value in enumerate(transposed(builder, values)):
            if k > 0:
                to = builder.add(to, column_step)
            place = memory.address(target, to)
            if whole:
                memory.store(value, place)
                continue
            with builder.if_then(builder.icmp_signed("<", constant(k), columns)):
                memory.store(value, place, stored)
        return context.get_dummy_value()

    def typing(typingctx, source, at, row_step, target, to, column_step, rows, columns):
        i = types.int64
        return types.void(source, i, i, target, i, i, i, i), codegen

    return intrinsic(typing)


transpose_whole = _transpose_square(True)
transpose_part = _transpose_square(False)


@njit(nogil=True)
def transpose_rows(source, at, row_step, rows, columns, target, to, column_step):
    """target[to + k*column_step + j] = source[at + j*row_step + k] for j < rows, k < columns, k upwards.

    Fewer rows than a vector has lanes are written with what fills it, which the next column overwrites.
    """
    lanes = VECTOR_BYTES // source.itemsize
    for j in range(0, rows, lanes):
        for k in range(0, columns, lanes):
            from_, onto = at + j * row_step + k, to + k * column_step + j
            if columns - k >= lanes and (j == 0 or rows - j >= lanes):
                transpose_whole(source, from_, row_step, target, onto, column_step, min(lanes, rows - j), lanes)
            else:
                transpose_part(
                    source, from_, row_step, target, onto, column_step, min(lanes, rows - j), min(lanes, columns - k)
                )


def _native_squares(source, at, row_step, rows, columns, size, target, to, column_step):
    """target[to + k*column_step + j] = source[at + j*row_step + k] for j < rows, k < columns; ``size``: of the source.

    Whole squares are turned: the lanes beyond ``rows`` and the columns beyond ``columns`` of the last one are written too. A
    square with masks, which only the end of the source needs, takes 140 to 260 cycles, a whole one 60 to 120.
    """
    source, target = carray(source, 1), carray(target, 1)
    lanes = VECTOR_BYTES // source.itemsize
    for j in range(0, rows, lanes):
        own = min(lanes, rows - j)
        for k in range(0, columns, lanes):
            from_, onto = at + j * row_step + k, to + k * column_step + j
            if own == lanes and from_ + (lanes - 1) * row_step + lanes <= size:  # constants: half of the cycles
                transpose_whole(source, from_, row_step, target, onto, column_step, lanes, lanes)
            elif from_ + (own - 1) * row_step + lanes <= size:
                transpose_whole(source, from_, row_step, target, onto, column_step, own, lanes)
            else:
                transpose_part(source, from_, row_step, target, onto, column_step, own, min(lanes, columns - k))


@cache
def native_squares(dtype: str) -> Any:
    """``_native_squares`` as machine code, for ``call_squares``."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(p, i, i, i, i, i, p, i, i), _native_squares)


@intrinsic
def call_squares(typingctx, address, source, at, row_step, rows, columns, size, target, to, column_step):
    """``_native_squares`` through the address of its machine code."""
    i = types.int64
    return types.void(i, source, i, i, i, i, i, target, i, i), call_address


@intrinsic
def _add_transposed_block(typingctx, source, at, row_step, rows, columns, target, places, first):
    """``add_transposed`` of at most a vector's lanes of rows and of columns."""

    def codegen(context, builder, signature, args):
        _, at, row_step, rows, columns, _, _, first = args
        element = signature.args[0].dtype
        vectors = Vectors(context, builder, element)
        source, target, places = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 5, 6))
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        add = builder.fadd if isinstance(element, types.Float) else builder.add
        values = []
        for j in range(lanes):
            row = builder.select(builder.icmp_signed("<", constant(j), rows), constant(j), constant(0))
            values.append(memory.load(memory.address(source, builder.add(at, builder.mul(row_step, row)))))
        for k, value in enumerate(transposed(builder, values)):
            with builder.if_then(builder.icmp_signed("<", constant(k), columns)):
                place = builder.load(builder.gep(places, [builder.add(first, constant(k))]))
                place = memory.address(target, place)
                memory.store(add(memory.load(place), value), place)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, i, i, target, places, i), codegen


@njit(nogil=True)
def add_transposed(source, at, row_step, rows, columns, target, places, first):
    """target[places[first + k] + j] += source[at + j*row_step + k] for j < rows, k < columns; at most a vector's lanes of rows.

    Whole vectors are read and written: of fewer rows, the other lanes of ``target`` get numbers that mean nothing.
    """
    lanes = VECTOR_BYTES // source.itemsize
    for k in range(0, columns, lanes):
        _add_transposed_block(source, at + k, row_step, rows, min(lanes, columns - k), target, places, first + k)


def _native_transpose(step, width, source, at, target, places, shift, rows, written):
    transpose(step, width, carray(source, 1), at, carray(target, 1), carray(places, 1), shift, rows, written)


@cache
def native_transpose(dtype: str) -> Any:
    """``transpose`` as machine code of its own, for ``call_transpose``: a second compilation of it takes 0.5 s."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    return native(types.void(i, i, p, i, p, t, i, i, i), _native_transpose)


@intrinsic
def call_transpose(typingctx, address, step, width, source, at, target, places, shift, rows, written):
    """``transpose`` through the address of its machine code."""

    i = types.int64
    return types.void(i, i, i, source, i, target, places, i, i, i), call_address
