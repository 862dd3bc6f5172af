"""The additions of Winograd's short correlations (Lavin & Gray, arXiv:1509.09308), on whole vectors."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic

from tconv_bench.jit import native
from tconv_bench.simd.copies import copy_rows
from tconv_bench.simd.vectors import VECTOR_BYTES, Memory, Vectors, call_address, first_lanes, phi_from


def _combine(matrix: tuple[tuple[int, ...], ...], wrap: int, halved: tuple[int, ...] = ()):
    """Intrinsic: row i of target = sum over l of ``matrix[i][l]`` times row l of source, entries 0, 1 and -1.

    The rows named in ``halved`` are divided by two. Row l stands at ``at + (l % wrap)*step + (l // wrap)*carry``, row i at
    ``to + i*out_step``; whole vectors of ``count``.
    """

    def codegen(context, builder, signature, args):
        _, at, step, carry, _, to, out_step, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4))

        def constant(value):
            return ir.Constant(i64, value)

        add, subtract = (builder.add, builder.sub) if isinstance(element, ir.IntType) else (builder.fadd, builder.fsub)
        start = builder.block
        loop, end = builder.append_basic_block("combine_loop"), builder.append_basic_block("combine_end")
        builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, end)
        builder.position_at_end(loop)
        j = phi_from(builder, constant(0), start)
        values = []
        for row in range(len(matrix[0])):
            place = builder.add(builder.mul(step, constant(row % wrap)), builder.mul(carry, constant(row // wrap)))
            values.append(memory.load(memory.address(source, builder.add(builder.add(at, j), place))))
        for i, factors in enumerate(matrix):
            # a positive entry comes first in each of the matrices, so that nothing is negated
            terms = sorted(((factor, value) for factor, value in zip(factors, values) if factor), key=lambda term: -term[0])
            total = terms[0][1]
            for factor, value in terms[1:]:
                total = (add if factor > 0 else subtract)(total, value)
            if i in halved:
                total = builder.fmul(total, ir.Constant(vector, [0.5] * lanes))
            memory.store(total, memory.address(target, builder.add(builder.add(to, j), builder.mul(out_step, constant(i)))))
        following = builder.add(j, constant(lanes))
        j.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, source, at, step, carry, target, to, out_step, count):
        i = types.int64
        return types.void(source, i, i, i, target, i, i, i), codegen

    return intrinsic(typing)


def _shifted(matrix: tuple[tuple[int, ...], ...], width: int) -> tuple[tuple[int, ...], ...]:
    """The matrix on the last of ``width`` columns."""
    return tuple((0,) * (width - len(row)) + row for row in matrix)


def _identity(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(i == j) for j in range(size)) for i in range(size))


# Winograd's short correlations (Lavin & Gray, arXiv:1509.09308) at the points 0, 1, infinity and 0, 1, -1, infinity: of the
# input (rows of products from a window's elements), of the weights (from a phase's taps; the inner ones of four rows are
# halved) and of the sums (a tile's outputs from products).
INPUT_3 = ((1, -1, 0), (0, 1, 0), (0, -1, 1))
INPUT_4 = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHT_3_OF_2 = ((1, 0), (1, 1), (0, 1))
WEIGHT_4_OF_2 = ((1, 0), (1, 1), (1, -1), (0, 1))
WEIGHT_4_OF_3 = ((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1))
OUTPUT_2_OF_3 = ((1, 1, 0), (0, 1, 1))
OUTPUT_2_OF_4 = ((1, 1, 1, 0), (0, 1, -1, -1))
OUTPUT_3_OF_4 = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))
_window_2_2 = _combine(INPUT_3, 2)
_window_3_2 = _combine(INPUT_4, 3)
_window_2_3 = _combine(INPUT_4, 2)
_window_2_21 = _combine(INPUT_3 + _shifted(_identity(2), 3), 2)
_window_3_21 = _combine(INPUT_4 + _shifted(_identity(3), 4), 3)
_window_2_32 = _combine(INPUT_4 + _shifted(INPUT_3, 4), 2)
_weights_3_of_2 = _combine(WEIGHT_3_OF_2, 2)
_weights_4_of_2 = _combine(WEIGHT_4_OF_2, 2, (1, 2))
_weights_4_of_3 = _combine(WEIGHT_4_OF_3, 3, (1, 2))
_weights_1_of_1 = _combine(((1,),), 1)
_weights_2_of_1 = _combine(((1,),) * 2, 1)
_weights_3_of_1 = _combine(((1,),) * 3, 1)
_outputs_2_of_3 = _combine(OUTPUT_2_OF_3, 3)
_outputs_2_of_4 = _combine(OUTPUT_2_OF_4, 4)
_outputs_3_of_4 = _combine(OUTPUT_3_OF_4, 4)
_outputs_2_of_2 = _combine(_identity(2), 2)
_outputs_3_of_3 = _combine(_identity(3), 3)
# The same products as whole polynomials: two pixels times a phase's two or three taps are all three or four outputs. Of two
# taps, the pixels' side is ``WEIGHT_3_OF_2``.
PRODUCTS_3 = ((1, 0, 0), (-1, 1, -1), (0, 0, 1))
PRODUCTS_4 = ((1, 0, 0, 0), (0, 1, -1, -1), (-1, 1, 1, 0), (0, 0, 0, 1))
_pixels_4 = _combine(WEIGHT_4_OF_2, 2)
_products_3 = _combine(PRODUCTS_3, 3)
_products_4 = _combine(PRODUCTS_4, 4)


@njit(nogil=True)
def combine_window(size, taps, mixed, source, at, step, carry, target, to, out_step, count):
    """Rows of Winograd's products from the ``size + taps - 1`` elements of each window; whole vectors of ``count`` windows.

    Element l stands at ``at + (l % size)*step + (l // size)*carry``, row i at ``to + i*out_step``. Where ``mixed``, the rows of
    the same outputs with a tap less, which read the last elements, follow those of ``taps``.
    """
    if taps == 3:
        if mixed:
            _window_2_32(source, at, step, carry, target, to, out_step, count)
        else:
            _window_2_3(source, at, step, carry, target, to, out_step, count)
    elif size == 3:
        if mixed:
            _window_3_21(source, at, step, carry, target, to, out_step, count)
        else:
            _window_3_2(source, at, step, carry, target, to, out_step, count)
    elif mixed:
        _window_2_21(source, at, step, carry, target, to, out_step, count)
    else:
        _window_2_2(source, at, step, carry, target, to, out_step, count)


@njit(nogil=True)
def combine_weights(size, taps, source, at, step, target, to, out_step, count):
    """The weights' side of the products of a tile of ``size`` outputs, from the rows of a phase's taps, last tap first."""
    if taps == 3:
        _weights_4_of_3(source, at, step, 0, target, to, out_step, count)
    elif taps == 2:
        if size == 3:
            _weights_4_of_2(source, at, step, 0, target, to, out_step, count)
        else:
            _weights_3_of_2(source, at, step, 0, target, to, out_step, count)
    elif size == 3:
        _weights_3_of_1(source, at, step, 0, target, to, out_step, count)
    elif size == 2:
        _weights_2_of_1(source, at, step, 0, target, to, out_step, count)
    else:
        _weights_1_of_1(source, at, step, 0, target, to, out_step, count)


def _native_weights(size, taps, source, at, step, target, to, out_step, count):
    source, target = carray(source, 1), carray(target, 1)
    if size == 1:
        copy_rows(source, at, step, target, to, out_step, count, taps)
    else:
        combine_weights(size, taps, source, at, step, target, to, out_step, count)


@cache
def native_weights(dtype: str) -> Any:
    """``combine_weights`` as machine code of its own, for ``call_weights``; tiles of one output copy their taps."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(i, i, p, i, i, p, i, i, i), _native_weights)


@intrinsic
def call_weights(typingctx, address, size, taps, source, at, step, target, to, out_step, count):
    """``combine_weights`` through the address of its machine code."""
    i = types.int64
    return types.void(i, i, i, source, i, i, target, i, i, i), call_address


@njit(nogil=True)
def combine_outputs(size, products, source, at, step, target, to, out_step, count):
    """The ``size`` outputs of each tile from its rows of products; whole vectors of ``count`` tiles."""
    if products == 4:
        if size == 3:
            _outputs_3_of_4(source, at, step, 0, target, to, out_step, count)
        else:
            _outputs_2_of_4(source, at, step, 0, target, to, out_step, count)
    elif products == 3:
        if size == 3:
            _outputs_3_of_3(source, at, step, 0, target, to, out_step, count)
        else:
            _outputs_2_of_3(source, at, step, 0, target, to, out_step, count)
    else:
        _outputs_2_of_2(source, at, step, 0, target, to, out_step, count)


@njit(nogil=True)
def combine_pixels(taps, source, at, step, target, to, out_step, count):
    """The pixels' side of the products of two pixels with ``taps`` taps; whole vectors of ``count`` pairs."""
    if taps == 3:
        _pixels_4(source, at, step, 0, target, to, out_step, count)
    else:
        _weights_3_of_2(source, at, step, 0, target, to, out_step, count)


def _pairs(matrix: tuple[tuple[int, int], ...], neighbours: bool):
    """Intrinsic: rows of products from two pixels each, as ``matrix`` has it: those of two rows, or neighbours of one row.

    Of two rows, ``step`` apart, the first ``first`` and ``second`` elements exist, and others count as zero; whole vectors of
    ``count`` pairs are written.
    """

    def codegen(context, builder, signature, args):
        _, at, step, first, second, _, to, out_step, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 5))
        start = builder.block
        loop, end = builder.append_basic_block("pairs_loop"), builder.append_basic_block("pairs_end")
        builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, end)
        builder.position_at_end(loop)
        j = phi_from(builder, constant(0), start)
        if neighbours:
            place = builder.add(at, builder.mul(j, constant(2)))
            loaded = [memory.load(memory.address(source, builder.add(place, constant(v * lanes)))) for v in range(2)]
            order = ir.VectorType(ir.IntType(32), lanes)
            pixels = [
                builder.shuffle_vector(*loaded, ir.Constant(order, [2 * lane + b for lane in range(lanes)])) for b in range(2)
            ]
        else:
            pixels = [
                memory.load(memory.address(source, builder.add(row, j)), first_lanes(builder, lanes, builder.sub(existing, j)))
                for row, existing in ((at, first), (builder.add(at, step), second))
            ]
        combined = {(1, 0): pixels[0], (0, 1): pixels[1], (1, 1): builder.fadd(*pixels)}
        if (1, -1) in matrix:
            combined[1, -1] = builder.fsub(*pixels)
        for i, factors in enumerate(matrix):
            value = combined[factors]
            memory.store(value, memory.address(target, builder.add(builder.add(to, j), builder.mul(out_step, constant(i)))))
        following = builder.add(j, constant(lanes))
        j.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, source, at, step, first, second, target, to, out_step, count):
        i = types.int64
        return types.void(source, i, i, i, i, target, i, i, i), codegen

    return intrinsic(typing)


_rows_3, _rows_4 = _pairs(WEIGHT_3_OF_2, False), _pairs(WEIGHT_4_OF_2, False)
_neighbours_3, _neighbours_4 = _pairs(WEIGHT_3_OF_2, True), _pairs(WEIGHT_4_OF_2, True)


@njit(nogil=True)
def combine_pixel_rows(taps, source, at, step, count, second_exists, target, to, out_step):
    """``combine_pixels`` of two rows of ``count`` pixels, the second one of zeros where it does not exist; reads no more."""
    second = count if second_exists else 0
    if taps == 3:
        _rows_4(source, at, step, count, second, target, to, out_step, count)
    else:
        _rows_3(source, at, step, count, second, target, to, out_step, count)


@njit(nogil=True)
def combine_neighbours(taps, source, at, target, to, out_step, count):
    """``combine_pixels`` of the pairs of pixels of a row; whole vectors of ``count`` pairs are read and written."""
    if taps == 3:
        _neighbours_4(source, at, 0, 0, 0, target, to, out_step, count)
    else:
        _neighbours_3(source, at, 0, 0, 0, target, to, out_step, count)


@njit(nogil=True)
def combine_products(products, sums, at, step, count):
    """Rows of products of two pixels with a phase's taps become rows of outputs, in their place; two products are outputs."""
    if products == 4:
        _products_4(sums, at, step, 0, sums, at, step, count)
    elif products == 3:
        _products_3(sums, at, step, 0, sums, at, step, count)
