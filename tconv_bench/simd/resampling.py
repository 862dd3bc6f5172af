"""Weighted sums of a few pixels: rows, runs and pixels of many channels."""

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.interleaving import interleaved
from tconv_bench.simd.vectors import Conversion, Vectors, multiply_add, splat


def _weigh(taps: int):
    """Intrinsic: ``weigh_pixels`` of a number of taps."""

    def codegen(context, builder, signature, args):
        _, base, _, first, _, w_at, pixels, width, _, to = args
        conversion = Conversion(context, builder, signature.args[0].dtype, signature.args[8].dtype)
        vectors = conversion.vectors
        source, places, weights, out = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 4, 8)
        )
        lanes = vectors.constant(vectors.lanes)
        whole = builder.and_(width, vectors.constant(-vectors.lanes))
        mask = vectors.below(builder.sub(width, whole))
        with cgutils.for_range(builder, pixels) as pixel:
            entry = builder.mul(pixel.index, vectors.constant(taps))
            sources, factors = [], []
            for k in range(taps):
                number = builder.add(entry, vectors.constant(k))
                place = builder.load(builder.gep(places, [builder.add(first, number)]))
                sources.append(builder.add(base, place))
                if taps > 1:
                    weight = builder.load(builder.gep(weights, [builder.add(w_at, number)]), align=vectors.size)
                    factors.append(splat(builder, weight, vectors.type))
            onto = builder.add(to, builder.mul(pixel.index, width))

            def weigh(j, mask=None, sources=sources, factors=factors, onto=onto):
                values = [conversion.load(source, builder.add(place, j), mask) for place in sources]
                total = values[0]
                if factors:
                    total = builder.fmul(factors[0], total)
                    for factor, value in zip(factors[1:], values[1:]):
                        total = multiply_add(builder, factor, value, total)
                conversion.store(total, out, builder.add(onto, j), mask)

            with cgutils.for_range(builder, builder.udiv(whole, lanes)) as block:
                weigh(builder.mul(block.index, lanes))
            with builder.if_then(builder.icmp_signed("<", whole, width)):
                weigh(whole, mask)
        return context.get_dummy_value()

    def typing(typingctx, source, base, places, first, weights, w_at, pixels, width, out, to):
        i = types.int64
        return types.void(source, i, places, i, weights, i, i, i, out, i), codegen

    return intrinsic(typing)


_weigh_1 = _weigh(1)
_weigh_2 = _weigh(2)
_weigh_4 = _weigh(4)


@njit(nogil=True)
def gather_pixels(source, base, places, first, pixels, width, out, to):
    """out[to + o*width + j] = source[base + places[first + o] + j] for o < pixels and j < width; nothing else is touched."""
    _weigh_1(source, base, places, first, source, 0, pixels, width, out, to)


@njit(nogil=True)
def weigh_pixels(taps, source, base, places, first, weights, w_at, pixels, width, out, to):
    """out[to + o*width + j] = sum over k < taps of weights[w_at + t] * source[base + places[first + t] + j], t = o*taps + k.

    For o < pixels and j < width; nothing else is read or written. taps is 2 or 4, or 1: copies without weights.
    Integers and floats become each other as in ``copy_rows``.
    """
    if taps == 1:
        _weigh_1(source, base, places, first, weights, w_at, pixels, width, out, to)
    elif taps == 2:
        _weigh_2(source, base, places, first, weights, w_at, pixels, width, out, to)
    else:
        _weigh_4(source, base, places, first, weights, w_at, pixels, width, out, to)


def _resample(stride: int, taps: int, apart: bool):
    """Intrinsic: ``resample_rows`` of a stride and a number of taps."""

    def codegen(context, builder, signature, args):
        _, at, line_step, _, w_at, w_step, _, column, _, to, out_step, count, rows = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        line, weights, switches, out = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 6, 8)
        )
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        factors = [builder.add(w_at, builder.mul(w_step, constant(i)) if apart else constant(i)) for i in range(stride * taps)]
        factors = [memory.address(weights, place) for place in factors]
        if apart:
            early = [builder.sub(builder.load(builder.gep(switches, [constant(r)])), column) for r in range(stride)]
        else:
            factors = [splat(builder, builder.load(pointer, align=vectors.size), vectors.type) for pointer in factors]

        def phase(r, pixels, j):
            if not apart and 2 * r + 1 == stride:
                return pixels[taps // 2]
            own = factors[r * taps : (r + 1) * taps]
            operands = pixels[:taps] if 2 * r + 1 < stride else pixels[1:]
            if apart:
                own = [memory.load(memory.address(pointer, j)) for pointer in own]
                is_early = vectors.below(builder.sub(early[r], j))
                operands = [builder.select(is_early, pixels[k + 1], pixels[k]) for k in range(taps)]
            total = builder.fmul(own[0], operands[0])
            for factor, operand in zip(own[1:], operands[1:]):
                total = multiply_add(builder, factor, operand, total)
            return total

        def resample(row_at, onto, j, left=None):
            source = memory.address(line, builder.add(row_at, j))
            pixels = [memory.load(memory.address(source, constant(d))) for d in range(taps + 1)]
            target = memory.address(out, builder.add(onto, builder.mul(j, constant(stride))))
            for v, value in enumerate(interleaved(builder, [phase(r, pixels, j) for r in range(stride)])):
                mask = None if left is None else vectors.below(left, v)
                memory.store(value, memory.address(target, constant(v * lanes)), mask)

        blocks = builder.udiv(count, constant(stride * lanes))
        whole = builder.mul(blocks, constant(lanes))
        left = builder.sub(count, builder.mul(whole, constant(stride)))
        with cgutils.for_range(builder, rows) as row:
            row_at = builder.add(at, builder.mul(row.index, line_step))
            onto = builder.add(to, builder.mul(row.index, out_step))
            with cgutils.for_range(builder, blocks) as block:
                resample(row_at, onto, builder.mul(block.index, constant(lanes)))
            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                resample(row_at, onto, whole, left)
        return context.get_dummy_value()

    def typing(typingctx, line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows):
        i = types.int64
        return types.void(line, i, i, weights, i, i, switches, i, out, i, i, i, i), codegen

    return intrinsic(typing)


def _weigh_runs(taps: int):
    """Intrinsic: ``weigh_runs`` of a number of taps."""

    def codegen(context, builder, signature, args):
        _, at, _, w_at, w_step, w_pixel, _, column, stride, _, to, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        line, weights, late, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 6, 9))
        memory, constant = vectors.memory, vectors.constant
        lanes = constant(vectors.lanes)
        with cgutils.for_range(builder, count) as pixel:
            j = pixel.index
            source = memory.address(line, builder.add(at, j))
            pixels = [builder.load(builder.gep(source, [constant(k)]), align=vectors.size) for k in range(taps + 1)]
            pixels = [splat(builder, value, vectors.type) for value in pixels]
            onto, own = builder.add(to, builder.mul(stride, j)), builder.add(w_at, builder.mul(w_pixel, j))
            switch = builder.load(builder.gep(late, [builder.add(column, j)]))
            for begin, end, operands in ((constant(0), switch, pixels[:taps]), (switch, stride, pixels[1:])):
                blocks = builder.udiv(builder.add(builder.sub(end, begin), constant(vectors.lanes - 1)), lanes)
                with cgutils.for_range(builder, blocks) as block:
                    r = builder.add(begin, builder.mul(block.index, lanes))
                    mask = vectors.below(builder.sub(end, r))
                    total = None
                    for k, operand in enumerate(operands):
                        place = builder.add(builder.add(own, builder.mul(w_step, constant(k))), r)
                        factor = memory.load(memory.address(weights, place), mask)
                        total = (
                            builder.fmul(factor, operand) if total is None else multiply_add(builder, factor, operand, total)
                        )
                    memory.store(total, memory.address(out, builder.add(onto, r)), mask)
        return context.get_dummy_value()

    def typing(typingctx, line, at, weights, w_at, w_step, w_pixel, late, column, stride, out, to, count):
        i = types.int64
        return types.void(line, i, weights, i, i, i, late, i, i, out, i, i), codegen

    return intrinsic(typing)


_weigh_runs_2 = _weigh_runs(2)
_weigh_runs_4 = _weigh_runs(4)


@njit(nogil=True)
def weigh_runs(taps, line, at, weights, w_at, w_step, w_pixel, late, column, stride, out, to, count):
    """out[to + stride*j + r] = sum over k < taps of weights[w_at + k*w_step + w_pixel*j + r] * line[at + j + k + 1 - is_late].

    For j < count and r < stride; ``is_late`` is 1 for r < late[column + j], else 0. taps is 2 or 4.
    """
    if taps == 2:
        _weigh_runs_2(line, at, weights, w_at, w_step, w_pixel, late, column, stride, out, to, count)
    else:
        _weigh_runs_4(line, at, weights, w_at, w_step, w_pixel, late, column, stride, out, to, count)


_resample_2_2 = _resample(2, 2, False)
_resample_2_4 = _resample(2, 4, False)
_resample_3_2 = _resample(3, 2, False)
_resample_3_4 = _resample(3, 4, False)
_resample_4_2 = _resample(4, 2, False)
_resample_4_4 = _resample(4, 4, False)
_apart_1_2 = _resample(1, 2, True)
_apart_1_4 = _resample(1, 4, True)
_apart_2_2 = _resample(2, 2, True)
_apart_2_4 = _resample(2, 4, True)
_apart_4_2 = _resample(4, 2, True)
_apart_4_4 = _resample(4, 4, True)


@njit(nogil=True)
def resample_rows(
    stride, taps, apart, line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows
):  # fmt: skip
    """out[to + g*out_step + stride*j + r] = sum over k < taps of w(r, k, j) * line[at + g*line_step + j + k + 1 - late].

    For g < rows and the first ``count`` elements of each row. w(r, k, j) is ``weights[w_at + r*taps + k]``, and late is 1 in
    the first half of the phases r; a phase in the middle is the pixel ``line[... + taps // 2]`` itself. Where ``apart``,
    w(r, k, j) is ``weights[w_at + (r*taps + k)*w_step + j]``, and late is 1 from ``column + j = switches[r]`` on. taps is 2
    or 4, stride 2, 3 or 4, or 1, 2 or 4 where apart. Whole vectors of line and weights are read.
    """
    if taps == 2:
        if apart and stride == 1:
            _apart_1_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
        elif apart and stride == 2:
            _apart_2_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
        elif apart:
            _apart_4_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
        elif stride == 2:
            _resample_2_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
        elif stride == 3:
            _resample_3_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
        else:
            _resample_4_2(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    elif apart and stride == 1:
        _apart_1_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    elif apart and stride == 2:
        _apart_2_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    elif apart:
        _apart_4_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    elif stride == 2:
        _resample_2_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    elif stride == 3:
        _resample_3_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
    else:
        _resample_4_4(line, at, line_step, weights, w_at, w_step, switches, column, out, to, out_step, count, rows)
