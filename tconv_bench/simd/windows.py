"""The greatest of a window and its number."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.places import lanes_of_places, load_places
from tconv_bench.simd.vectors import VECTOR_BYTES, Vectors, first_lanes, splat


def _exceeds(builder, dtype, value, best):
    """The mask of values that replace the largest so far: larger ones, and NaN."""
    if isinstance(dtype, types.Integer):
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(">", value, best)
    return builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))


@intrinsic
def max_lines(typingctx, line, at, taps, count, base, places, values, to, numbers, numbers_to, width):
    """values[to + j] = the largest line[at + taps[2t + 1] + j] over taps t; base + places[j] + taps[2t], of the first such tap,
    is numbers[numbers_to + j].

    Of NaNs it is the last one. taps[2t] < 2**31 and j < width; nothing else is read or written.
    """

    def codegen(context, builder, signature, args):
        _, at, _, count, base, _, _, to, _, numbers_to, width = args
        dtype = signature.args[0].dtype
        lanes = lanes_of_places(context, dtype)
        vectors, counters = Vectors(context, builder, dtype, lanes), Vectors(context, builder, types.int64, lanes)
        line, taps, places, values, numbers = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 5, 6, 8)
        )
        memory, constant, i32 = vectors.memory, vectors.constant, ir.IntType(32)
        held_type = ir.VectorType(i32, lanes)
        line, base = builder.gep(line, [at]), splat(builder, base, counters.type)
        bests = [cgutils.alloca_once(builder, vectors.type) for _ in range(2)]
        helds = [cgutils.alloca_once(builder, held_type) for _ in range(2)]

        def largest(starts, mask=None):
            own = list(zip(starts, bests, helds))

            def meet(tap, is_first=False):
                entry = builder.gep(taps, [builder.mul(tap, constant(2))])
                number = splat(builder, builder.trunc(builder.load(entry), i32), held_type)
                place = builder.load(builder.gep(entry, [constant(1)]))
                for j, best, held in own:
                    value = memory.load(memory.address(line, builder.add(j, place)), mask)
                    if is_first:
                        builder.store(value, best)
                        builder.store(number, held)
                        continue
                    larger = _exceeds(builder, dtype, value, builder.load(best))
                    builder.store(builder.select(larger, value, builder.load(best)), best)
                    builder.store(builder.select(larger, number, builder.load(held)), held)

            meet(constant(0), is_first=True)
            with cgutils.for_range(builder, builder.sub(count, constant(1))) as tap:
                meet(builder.add(tap.index, constant(1)))
            for j, best, held in own:
                memory.store(builder.load(best), memory.address(values, builder.add(to, j)), mask)
                number = builder.add(base, counters.memory.load(memory.address(places, j), mask))
                number = builder.add(number, builder.sext(builder.load(held), counters.type))
                counters.memory.store(number, memory.address(numbers, builder.add(numbers_to, j)), mask)

        pairs = builder.udiv(width, constant(2 * lanes))
        with cgutils.for_range(builder, pairs) as pair:
            j = builder.mul(pair.index, constant(2 * lanes))
            largest([j, builder.add(j, constant(lanes))])
        done = builder.mul(pairs, constant(2 * lanes))
        whole = builder.and_(width, constant(-lanes))
        with builder.if_then(builder.icmp_signed("<", done, whole)):
            largest([done])
        with builder.if_then(builder.icmp_signed("<", whole, width)):
            largest([whole], first_lanes(builder, lanes, builder.sub(width, whole)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(line, i, taps, i, i, places, values, i, numbers, i, i), codegen


@intrinsic
def max_gathered(typingctx, source, at, places, step, taps, values, numbers, to, count):
    """values[to + j] = the largest source[at + places[t*step + j]] over t < taps, and numbers[to + j] the first such place less
    places[taps*step + j]; of NaNs the last one. j < count; places are int32; nothing else is read or written.
    """

    def codegen(context, builder, signature, args):
        _, at, _, step, taps, _, _, to, count = args
        dtype = signature.args[0].dtype
        lanes = lanes_of_places(context, dtype)
        vectors, held_type = Vectors(context, builder, dtype, lanes), Vectors(context, builder, types.int32, lanes)
        wide = Vectors(context, builder, types.int64, lanes)
        source, places, values, numbers = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 5, 6)
        )
        source, constant = builder.gep(source, [at]), vectors.constant
        best, held = cgutils.alloca_once(builder, vectors.type), cgutils.alloca_once(builder, held_type.type)

        def largest(j, mask=None):
            def listed(tap):
                place = builder.add(builder.mul(tap, step), j)
                return held_type.memory.load(held_type.memory.address(places, place), mask)

            place = listed(constant(0))
            builder.store(load_places(builder, vectors, source, place, mask), best)
            builder.store(place, held)
            with cgutils.for_range(builder, builder.sub(taps, constant(1))) as tap:
                place = listed(builder.add(tap.index, constant(1)))
                value = load_places(builder, vectors, source, place, mask)
                larger = _exceeds(builder, dtype, value, builder.load(best))
                builder.store(builder.select(larger, value, builder.load(best)), best)
                builder.store(builder.select(larger, place, builder.load(held)), held)
            vectors.memory.store(builder.load(best), vectors.memory.address(values, builder.add(to, j)), mask)
            number = builder.sext(builder.sub(builder.load(held), listed(taps)), wide.type)
            wide.memory.store(number, wide.memory.address(numbers, builder.add(to, j)), mask)

        blocks = builder.udiv(count, constant(lanes))
        with cgutils.for_range(builder, blocks) as block:
            largest(builder.mul(block.index, constant(lanes)))
        whole = builder.mul(blocks, constant(lanes))
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            largest(whole, first_lanes(builder, lanes, builder.sub(count, whole)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, places, i, i, values, numbers, i, i), codegen


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
