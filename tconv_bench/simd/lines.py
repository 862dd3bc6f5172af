"""Lines of pixels: short correlations along them, and lines added up at distances."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tconv_bench.simd.vectors import VECTOR_BYTES, Memory, Vectors, multiply_add, phi_from, splat


def _lines(nv: int):
    """Intrinsic: sums[at + j] = bias + sum over taps t of weight[w_at + taps[2t]] * line[taps[2t + 1] + j], j < count.

    ``count`` is a multiple of ``nv`` vectors.
    """

    def codegen(context, builder, signature, args):
        _, _, w_at, _, first, taps_count, bias, _, at, begin, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        line, weight, taps, sums = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 3, 7))

        def constant(value):
            return ir.Constant(i64, value)

        initial = splat(builder, bias, vector)
        start = builder.block
        outer, inner, after, end = (builder.append_basic_block(f"lines_{name}") for name in ("outer", "tap", "after", "end"))
        builder.cbranch(builder.icmp_signed("<", begin, count), outer, end)
        builder.position_at_end(outer)
        j = phi_from(builder, begin, start)
        builder.cbranch(builder.icmp_signed(">", taps_count, constant(0)), inner, after)
        builder.position_at_end(inner)
        tap = phi_from(builder, constant(0), outer)
        before = [phi_from(builder, initial, outer) for _ in range(nv)]
        entry = builder.mul(builder.add(first, tap), constant(2))
        factor = memory.address(weight, builder.add(w_at, builder.load(builder.gep(taps, [entry]))))
        factor = splat(builder, builder.load(factor, align=size), vector)
        source = builder.add(j, builder.load(builder.gep(taps, [builder.add(entry, constant(1))])))
        following = []
        for v, value in enumerate(before):
            pixels = memory.load(memory.address(line, builder.add(source, constant(v * lanes))))
            following.append(multiply_add(builder, factor, pixels, value))
        next_tap = builder.add(tap, constant(1))
        for phi, value in ((tap, next_tap), *zip(before, following)):
            phi.add_incoming(value, inner)
        builder.cbranch(builder.icmp_signed("<", next_tap, taps_count), inner, after)
        builder.position_at_end(after)
        for v, value in enumerate(following):
            total = phi_from(builder, initial, outer)
            total.add_incoming(value, inner)
            following[v] = total
        for v, value in enumerate(following):
            memory.store(value, memory.address(sums, builder.add(builder.add(at, j), constant(v * lanes))))
        next_j = builder.add(j, constant(nv * lanes))
        j.add_incoming(next_j, after)
        builder.cbranch(builder.icmp_signed("<", next_j, count), outer, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, line, weight, w_at, taps, first, taps_count, bias, sums, at, begin, count):
        i = types.int64
        return types.void(line, weight, i, taps, i, i, line.dtype, sums, i, i, i), codegen

    return intrinsic(typing)


_lines_4 = _lines(4)
_lines_1 = _lines(1)


@njit(nogil=True)
def sum_lines(line, weight, w_at, taps, first, taps_count, bias, sums, at, count):
    """sums[at + j] = bias + sum over taps t of weight[w_at + taps[2t]] * line[taps[2t + 1] + j] for j < count.

    t runs over ``first ... first + taps_count - 1``; ``count`` is a whole number of vectors.
    """
    lanes = VECTOR_BYTES // line.itemsize
    whole = count // (4 * lanes) * (4 * lanes)
    _lines_4(line, weight, w_at, taps, first, taps_count, bias, sums, at, 0, whole)
    _lines_1(line, weight, w_at, taps, first, taps_count, bias, sums, at, whole, count)


def _add_lines(nv: int):
    """Intrinsic: ``add_lines`` from ``begin`` on; ``count`` - ``begin`` is a multiple of ``nv`` vectors."""

    def codegen(context, builder, signature, args):
        _, at, places, first, lines_count, _, to, begin, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        lines, places, sums = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 5))
        add = builder.fadd if isinstance(signature.args[0].dtype, types.Float) else builder.add
        last = builder.add(first, lines_count)

        def line(number, j):
            place = builder.add(builder.add(at, builder.load(builder.gep(places, [number]))), j)
            return [memory.load(memory.address(lines, builder.add(place, constant(v * lanes)))) for v in range(nv)]

        start = builder.block
        outer, inner, after, end = (builder.append_basic_block(f"add_{name}") for name in ("outer", "line", "after", "end"))
        builder.cbranch(builder.icmp_signed("<", begin, count), outer, end)
        builder.position_at_end(outer)
        j = phi_from(builder, begin, start)
        initial, second = line(first, j), builder.add(first, constant(1))
        builder.cbranch(builder.icmp_signed("<", second, last), inner, after)
        builder.position_at_end(inner)
        number = phi_from(builder, second, outer)
        before = [phi_from(builder, value, outer) for value in initial]
        following = [add(value, more) for value, more in zip(before, line(number, j))]
        next_number = builder.add(number, constant(1))
        for phi, value in ((number, next_number), *zip(before, following)):
            phi.add_incoming(value, inner)
        builder.cbranch(builder.icmp_signed("<", next_number, last), inner, after)
        builder.position_at_end(after)
        totals = [phi_from(builder, value, outer) for value in initial]
        for v, (total, value) in enumerate(zip(totals, following)):
            total.add_incoming(value, inner)
            place = memory.address(sums, builder.add(builder.add(to, j), constant(v * lanes)))
            memory.store(add(memory.load(place), total), place)
        next_j = builder.add(j, constant(nv * lanes))
        j.add_incoming(next_j, after)
        builder.cbranch(builder.icmp_signed("<", next_j, count), outer, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, lines, at, places, first, lines_count, sums, to, begin, count):
        i = types.int64
        return types.void(lines, i, places, i, i, sums, i, i, i), codegen

    return intrinsic(typing)


_add_lines_4 = _add_lines(4)
_add_lines_1 = _add_lines(1)


@njit(nogil=True)
def add_lines(lines, at, places, first, lines_count, sums, to, count):
    """sums[to + j] += the sum over ``first <= t < first + lines_count`` of lines[at + places[t] + j], for j < count.

    At least one line, added up in their order; ``count`` is a whole number of vectors.
    """
    lanes = VECTOR_BYTES // lines.itemsize
    whole = count // (4 * lanes) * (4 * lanes)
    _add_lines_4(lines, at, places, first, lines_count, sums, to, 0, whole)
    _add_lines_1(lines, at, places, first, lines_count, sums, to, whole, count)
