"""The greatest of a window and its number."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.vectors import VECTOR_BYTES, Vectors, splat


def _exceeds(builder, dtype, value, best):
    """The mask of values that replace the largest so far: larger ones, and NaN."""
    if isinstance(dtype, types.Integer):
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(">", value, best)
    return builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))


@intrinsic
def max_lines(typingctx, line, taps, count, least, base, places, values, to, numbers, numbers_to, width):
    """values[to + j] = the largest line[taps[2t + 1] + j] over taps t; numbers[numbers_to + j] = base + places[j] + taps[2t].

    t is the first of the ``count`` taps that holds the largest value, the last NaN where there is one; the first tap of all
    where nothing exceeds ``least``. j < width; nothing else is read or written.
    """

    def codegen(context, builder, signature, args):
        _, _, count, least, base, _, _, to, _, numbers_to, width = args
        dtype = signature.args[0].dtype
        lanes = VECTOR_BYTES // 8
        vectors, counters = Vectors(context, builder, dtype, lanes), Vectors(context, builder, types.int64, lanes)
        line, taps, places, values, numbers = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 5, 6, 8)
        )
        memory, constant = vectors.memory, vectors.constant

        least, base = splat(builder, least, vectors.type), splat(builder, base, counters.type)
        first = splat(builder, builder.load(taps), counters.type)
        best, held = cgutils.alloca_once(builder, vectors.type), cgutils.alloca_once(builder, counters.type)

        def largest(j, mask=None):
            builder.store(least, best)
            builder.store(first, held)
            with cgutils.for_range(builder, count) as tap:
                entry = builder.gep(taps, [builder.mul(tap.index, constant(2))])
                number = splat(builder, builder.load(entry), counters.type)
                place = memory.address(line, builder.add(j, builder.load(builder.gep(entry, [constant(1)]))))
                value = memory.load(place, mask)
                larger = _exceeds(builder, dtype, value, builder.load(best))
                builder.store(builder.select(larger, value, builder.load(best)), best)
                builder.store(builder.select(larger, number, builder.load(held)), held)
            memory.store(builder.load(best), memory.address(values, builder.add(to, j)), mask)
            number = builder.add(base, counters.memory.load(memory.address(places, j), mask))
            number = builder.add(number, builder.load(held))
            counters.memory.store(number, memory.address(numbers, builder.add(numbers_to, j)), mask)

        blocks = builder.udiv(width, constant(lanes))
        with cgutils.for_range(builder, blocks) as block:
            largest(builder.mul(block.index, constant(lanes)))
        whole = builder.mul(blocks, constant(lanes))
        with builder.if_then(builder.icmp_signed("<", whole, width)):
            largest(whole, vectors.below(builder.sub(width, whole)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(line, taps, i, line.dtype, i, places, values, i, numbers, i, i), codegen


@intrinsic
def _max_window(typingctx, source, at, row_step, rows, width, least, values, numbers):
    """values[l] = the largest of what lane l meets in a window, numbers[l] = where it stood, counted from ``at``."""

    def codegen(context, builder, signature, args):
        _, at, row_step, rows, width, least, _, _ = args
        dtype = signature.args[0].dtype
        lanes = VECTOR_BYTES // 8
        vectors, counters = Vectors(context, builder, dtype, lanes), Vectors(context, builder, types.int64, lanes)
        source, values, numbers = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 6, 7))
        memory, constant = vectors.memory, vectors.constant
        least = splat(builder, least, vectors.type)
        best, held = cgutils.alloca_once(builder, vectors.type), cgutils.alloca_once(builder, counters.type)
        builder.store(least, best)
        builder.store(ir.Constant(counters.type, None), held)
        whole = builder.and_(width, constant(-lanes))
        mask = vectors.below(builder.sub(width, whole))
        order = ir.Constant(counters.type, list(range(lanes)))

        def meet(number, mask=None):
            value = memory.load(memory.address(source, builder.add(at, number)), mask)
            value = value if mask is None else builder.select(mask, value, least)
            larger = _exceeds(builder, dtype, value, builder.load(best))
            number = builder.add(order, splat(builder, number, counters.type))
            builder.store(builder.select(larger, value, builder.load(best)), best)
            builder.store(builder.select(larger, number, builder.load(held)), held)

        with cgutils.for_range(builder, rows) as row:
            first = builder.mul(row.index, row_step)
            with cgutils.for_range(builder, builder.udiv(whole, constant(lanes))) as block:
                meet(builder.add(first, builder.mul(block.index, constant(lanes))))
            with builder.if_then(builder.icmp_signed("<", whole, width)):
                meet(builder.add(first, whole), mask)
        memory.store(builder.load(best), values)
        counters.memory.store(builder.load(held), numbers)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, i, i, source.dtype, values, numbers), codegen


@njit(nogil=True)
def max_window(source, at, row_step, rows, width, least, values, numbers):
    """(the largest source[at + y*row_step + x] for y < rows and x < width, where it stood, counted from ``at``).

    The first of equal ones, the last NaN where there is one, the first of all where nothing exceeds ``least``. ``values`` and
    ``numbers`` are room for a vector each.
    """
    _max_window(source, at, row_step, rows, width, least, values, numbers)
    best, number = values[0], numbers[0]
    for lane in range(1, VECTOR_BYTES // 8):
        value, own = values[lane], numbers[lane]
        if value != value:
            if best == best or own > number:
                best, number = value, own
        elif value > best or (value == best and own < number):
            best, number = value, own
    return best, number
