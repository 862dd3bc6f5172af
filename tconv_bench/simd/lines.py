"""Lines of pixels: short correlations along them, those of all phases interleaved, and lines added up at distances."""

from numba import njit, types
from numba.extending import intrinsic

from tconv_bench.simd.interleaving import interleaved
from tconv_bench.simd.vectors import VECTOR_BYTES, Vectors, first_lanes, multiply_add, phi_from, splat


def _emit_woven(context, builder, signature, args, arrays, phases_of, places, nv: int, masked: bool):
    """The loop of ``_lines`` and ``_weave``: blocks of ``nv`` vectors of each phase, or the part of one that is left.

    ``arrays``: which arguments are the line, the weights, the taps and out. ``places``: where the line and the weights begin,
    the bias, where out begins, its first element to write and past its last one. ``phases_of(number)``: the first tap of each
    phase and past its last one, where ``number`` reads one of an array's.
    """
    vectors = Vectors(context, builder, signature.args[0].dtype)
    memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
    line, weight, taps, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in arrays)
    line_at, w_at, bias, to, begin, count = places
    initial = splat(builder, bias, vectors.type)

    def number(array, index, more=0):
        return builder.load(builder.gep(array, [builder.add(index, constant(more))]))

    phases = phases_of(number)
    stride = len(phases)
    start = builder.block
    block, end = builder.append_basic_block("lines_block"), builder.append_basic_block("lines_end")
    builder.cbranch(builder.icmp_signed("<", begin, count), block, end)
    builder.position_at_end(block)
    done = phi_from(builder, begin, start)
    j = builder.add(line_at, builder.sdiv(done, constant(stride)))
    found = []
    for first, last in phases:
        before = builder.block
        inner, after = builder.append_basic_block("lines_tap"), builder.append_basic_block("lines_after")
        builder.cbranch(builder.icmp_signed("<", first, last), inner, after)
        builder.position_at_end(inner)
        tap = phi_from(builder, first, before)
        sums = [phi_from(builder, initial, before) for _ in range(nv)]
        entry = builder.mul(tap, constant(2))
        factor = builder.load(memory.address(weight, builder.add(w_at, number(taps, entry))), align=vectors.size)
        factor, source = splat(builder, factor, vectors.type), builder.add(j, number(taps, entry, 1))
        following = []
        for v, value in enumerate(sums):
            pixels = memory.load(memory.address(line, builder.add(source, constant(v * lanes))))
            following.append(multiply_add(builder, factor, pixels, value))
        next_tap = builder.add(tap, constant(1))
        for phi, value in ((tap, next_tap), *zip(sums, following)):
            phi.add_incoming(value, inner)
        builder.cbranch(builder.icmp_signed("<", next_tap, last), inner, after)
        builder.position_at_end(after)
        totals = [phi_from(builder, initial, before) for _ in range(nv)]
        for total, value in zip(totals, following):
            total.add_incoming(value, inner)
        found.append(totals)
    left = builder.sub(count, done)
    for v in range(nv):
        for number_of, value in enumerate(interleaved(builder, [totals[v] for totals in found])):
            at = (v * stride + number_of) * lanes
            mask = first_lanes(builder, lanes, left, at) if masked else None
            memory.store(value, memory.address(out, builder.add(builder.add(to, done), constant(at))), mask)
    next_done = builder.add(done, constant(nv * stride * lanes))
    done.add_incoming(next_done, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_done, count), block, end)
    builder.position_at_end(end)
    return context.get_dummy_value()


def _lines(nv: int):
    """Intrinsic: sums[at + j] = bias + sum over taps t of weight[w_at + taps[2t]] * line[taps[2t + 1] + j], j < count.

    ``count`` is a multiple of ``nv`` vectors.
    """

    def codegen(context, builder, signature, args):
        _, _, w_at, _, first, taps_count, bias, _, at, begin, count = args
        places = (at.type(0), w_at, bias, at, begin, count)

        def phases_of(number):
            return [(first, builder.add(first, taps_count))]

        return _emit_woven(context, builder, signature, args, (0, 1, 3, 7), phases_of, places, nv, False)

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


def _weave(stride: int, nv: int, masked: bool):
    """Intrinsic: a run of ``weave_lines`` from element ``begin`` to before ``count``: whole blocks of ``nv`` vectors of each
    phase, or the part of one that is left.
    """

    def codegen(context, builder, signature, args):
        _, line_at, _, w_at, _, _, first_job, bias, _, to, begin, count = args
        jobs = context.make_array(signature.args[5])(context, builder, args[5]).data

        def phases_of(number):
            pairs = [(number(jobs, first_job, 4 * phase), number(jobs, first_job, 4 * phase + 1)) for phase in range(stride)]
            return [(first, builder.add(first, taps)) for first, taps in pairs]

        places = (line_at, w_at, bias, to, begin, count)
        return _emit_woven(context, builder, signature, args, (0, 2, 4, 8), phases_of, places, nv, masked)

    def typing(typingctx, line, line_at, weight, w_at, taps, jobs, first_job, bias, out, to, begin, count):
        i = types.int64
        return types.void(line, i, weight, i, taps, jobs, i, line.dtype, out, i, i, i), codegen

    return intrinsic(typing)


#: strides whose phases are summed up and interleaved without leaving the registers, and vectors of each phase at once
WOVEN = {1: 4, 2: 4, 3: 2, 4: 2}
_weave_1_4 = _weave(1, 4, False)
_weave_1_1 = _weave(1, 1, False)
_weave_1_part = _weave(1, 1, True)
_weave_2_4 = _weave(2, 4, False)
_weave_2_1 = _weave(2, 1, False)
_weave_2_part = _weave(2, 1, True)
_weave_3_2 = _weave(3, 2, False)
_weave_3_1 = _weave(3, 1, False)
_weave_3_part = _weave(3, 1, True)
_weave_4_2 = _weave(4, 2, False)
_weave_4_1 = _weave(4, 1, False)
_weave_4_part = _weave(4, 1, True)


@njit(nogil=True)
def weave_lines(stride, line, weight, w_at, taps, jobs, job_step, bias, out, to, runs, count):
    """Rows of out: each phase is bias + the sum over its taps t of weight[w_at + taps[2t]] * line[at + taps[2t + 1] + j].

    Run i < ``count`` writes ``runs[i, 3]`` elements from ``out[to + runs[i, 2]]`` on, those of phase r at stride*j + r, and has
    ``at = runs[i, 1]``, and the first tap of each phase r and how many they are at ``jobs[job_step * runs[i, 0] + 4r]``.
    ``stride`` is one of ``WOVEN``. Whole vectors of ``line`` are read.
    """
    lanes = VECTOR_BYTES // line.itemsize
    one = stride * lanes
    for i in range(count):
        job, at, place, size = runs[i, 0] * job_step, runs[i, 1], to + runs[i, 2], runs[i, 3]
        ones = size // one * one
        if stride == 1:
            wide = size // (4 * one) * (4 * one)
            _weave_1_4(line, at, weight, w_at, taps, jobs, job, bias, out, place, 0, wide)
            _weave_1_1(line, at, weight, w_at, taps, jobs, job, bias, out, place, wide, ones)
            _weave_1_part(line, at, weight, w_at, taps, jobs, job, bias, out, place, ones, size)
        elif stride == 2:
            wide = size // (4 * one) * (4 * one)
            _weave_2_4(line, at, weight, w_at, taps, jobs, job, bias, out, place, 0, wide)
            _weave_2_1(line, at, weight, w_at, taps, jobs, job, bias, out, place, wide, ones)
            _weave_2_part(line, at, weight, w_at, taps, jobs, job, bias, out, place, ones, size)
        elif stride == 3:
            wide = size // (2 * one) * (2 * one)
            _weave_3_2(line, at, weight, w_at, taps, jobs, job, bias, out, place, 0, wide)
            _weave_3_1(line, at, weight, w_at, taps, jobs, job, bias, out, place, wide, ones)
            _weave_3_part(line, at, weight, w_at, taps, jobs, job, bias, out, place, ones, size)
        else:
            wide = size // (2 * one) * (2 * one)
            _weave_4_2(line, at, weight, w_at, taps, jobs, job, bias, out, place, 0, wide)
            _weave_4_1(line, at, weight, w_at, taps, jobs, job, bias, out, place, wide, ones)
            _weave_4_part(line, at, weight, w_at, taps, jobs, job, bias, out, place, ones, size)


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
