"""What the taps of a kernel read of a row, as one row per tap: the columns that gradients multiply."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.copies import clear, copy_strided
from tconv_bench.simd.transposes import transpose_part, transpose_whole
from tconv_bench.simd.vectors import VECTOR_BYTES, Vectors, first_lanes

PIECE_FIELDS = 6  # place in the source, place in the columns, pixels, z, y and x of what the first pixel reads


def _copy_columns(stride: int):
    """Intrinsic: ``copy_columns`` of a stride: as many loads, whose lanes that are wanted meet in one vector."""

    def codegen(context, builder, signature, args):
        _, at, sizes, shifts, step, taps, _, pieces_count, _, to, row_step = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        index, below, both = ir.VectorType(ir.IntType(32), lanes), "<", builder.and_
        source, pieces, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 6, 8))
        (oz, oy, ox), (sz, sy, sx) = (cgutils.unpack_tuple(builder, values, 3) for values in (sizes, shifts))
        furthest = builder.add(builder.mul(builder.sub(taps, constant(1)), step), constant(stride * lanes))

        def chosen(v):
            """Lanes of the vectors before v, then v's own."""
            found = []
            for lane in range(lanes):
                own, there = divmod(lane * stride, lanes)
                kept = there if v == 1 else lane
                found.append(lanes + there if own == v else kept if own < v else 0)
            return ir.Constant(index, found)

        def read(place, element, bounds):
            total = None
            for v in range(stride):
                mask = None
                if bounds is not None:
                    before, behind = (builder.sub(bound, element) for bound in bounds)
                    outside = first_lanes(builder, lanes, before, v * lanes)
                    mask = both(builder.not_(outside), first_lanes(builder, lanes, behind, v * lanes))
                loaded = memory.load(memory.address(source, builder.add(place, constant(v * lanes))), mask)
                total = loaded if v == 0 else builder.shuffle_vector(total, loaded, chosen(v))
            return total

        with cgutils.for_range(builder, pieces_count) as piece:
            entry = builder.mul(piece.index, constant(PIECE_FIELDS))
            fields = [builder.load(memory.address(pieces, builder.add(entry, constant(i)))) for i in range(PIECE_FIELDS)]
            there, onto = builder.add(at, fields[0]), builder.add(to, fields[1])
            stored = first_lanes(builder, lanes, fields[2])
            z, y, x = (builder.add(place, shift) for place, shift in zip(fields[3:], (sz, sy, sx)))
            first, last = builder.neg(x), builder.sub(ox, x)
            is_row = both(builder.icmp_unsigned(below, z, oz), builder.icmp_unsigned(below, y, oy))
            is_inside = both(builder.icmp_signed("<=", first, constant(0)), builder.icmp_signed(">=", last, furthest))

            def copy_all(source_of, onto=onto, stored=stored):
                with cgutils.for_range(builder, taps) as tap:
                    value = source_of(builder.mul(tap.index, step))
                    memory.store(value, memory.address(out, builder.add(onto, builder.mul(tap.index, row_step))), stored)

            def inside(element, there=there):
                return read(builder.add(there, element), element, None)

            def at_border(element, there=there, bounds=(first, last)):
                return read(builder.add(there, element), element, bounds)

            with builder.if_else(is_row) as (exists, missing):
                with exists, builder.if_else(is_inside) as (whole, cut):
                    with whole:
                        copy_all(inside)
                    with cut:
                        copy_all(at_border)
                with missing:
                    copy_all(lambda _: ir.Constant(vectors.type, None))
        return context.get_dummy_value()

    def typing(typingctx, source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step):
        i = types.int64
        three = types.UniTuple(i, 3)
        return types.void(source, i, three, three, i, i, pieces, i, out, i, i), codegen

    return intrinsic(typing)


_copy_columns_1 = _copy_columns(1)
_copy_columns_2 = _copy_columns(2)
_copy_columns_3 = _copy_columns(3)
_copy_columns_4 = _copy_columns(4)


@njit(nogil=True)
def _turn_taps(stride, source, at, taps, out, to, row_step, count):
    """``copy_taps`` of neighbouring taps, all of which exist: squares are read along the taps and turned round."""
    lanes = VECTOR_BYTES // source.itemsize
    for k in range(0, taps, lanes):
        if count == lanes and taps - k >= lanes:
            transpose_whole(source, at + k, stride, out, to + k * row_step, row_step, lanes, lanes)
        else:
            transpose_part(source, at + k, stride, out, to + k * row_step, row_step, count, min(lanes, taps - k))


@njit(nogil=True)
def _copy_taps(stride, source, at, first, last, step, taps, out, to, row_step, count):
    """A piece of ``copy_columns``; elements outside of ``first ... last - 1``, counted from ``at``, count as zero."""
    if step == 1 and taps > 1 and first <= 0 and last >= (count - 1) * stride + taps:
        _turn_taps(stride, source, at, taps, out, to, row_step, count)
        return
    for k in range(taps):
        low = min(count, max(0, -((k * step - first) // stride)))
        high = max(low, min(count, (last - 1 - k * step) // stride + 1))
        row = to + k * row_step
        clear(out, row, low)
        copy_strided(source, at + k * step + low * stride, stride, out, row + low, high - low)
        clear(out, row + high, count - high)


@njit(nogil=True)
def copy_columns(stride, source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step):
    """What ``taps`` neighbouring kernel positions along x read, one row each, for all pieces of pixels.

    For a piece (p, q, n, z, y, x) of ``pieces``, int64 ``(count, PIECE_FIELDS)``, k < taps and j < n, at most a vector's lanes,
    ``out[to + q + k*row_step + j] = source[at + p + k*step + stride*j]``, or 0 where the image of ``sizes`` has no pixel
    (z, y, x + k*step + stride*j) + ``shifts``.
    """
    if stride == 2:
        _copy_columns_2(source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step)
    elif stride == 1:
        _copy_columns_1(source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step)
    elif stride == 3:
        _copy_columns_3(source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step)
    elif stride == 4:
        _copy_columns_4(source, at, sizes, shifts, step, taps, pieces, count, out, to, row_step)
    else:
        for number in range(count):
            piece = pieces[number]
            z, y, x = piece[3] + shifts[0], piece[4] + shifts[1], piece[5] + shifts[2]
            if 0 <= z < sizes[0] and 0 <= y < sizes[1]:
                _copy_taps(stride, source, at + piece[0], -x, sizes[2] - x, step, taps, out, to + piece[1], row_step, piece[2])
            else:
                for k in range(taps):
                    clear(out, to + piece[1] + k * row_step, piece[2])
