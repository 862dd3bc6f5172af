"""Copies of rows and grids at plain addresses."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.interleaving import copy
from tconv_bench.simd.vectors import LINE_BYTES, Conversion, Vectors, phi_from, splat


@intrinsic
def copy_strided(typingctx, source, at, step, target, to, count):
    """target[to + i] = source[at + i*step] for i < count; plain addresses, which Numba's own loop checks for negative ones."""

    def codegen(context, builder, signature, args):
        _, at, step, _, to, count = args
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        i64 = ir.IntType(64)
        start = builder.block
        loop, end = builder.append_basic_block("strided_loop"), builder.append_basic_block("strided_end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(i64, 0)), loop, end)
        builder.position_at_end(loop)
        i, place = phi_from(builder, ir.Constant(i64, 0), start), phi_from(builder, at, start)
        value = builder.load(builder.gep(source, [place]), align=size)
        builder.store(value, builder.gep(target, [builder.add(to, i)]), align=size)
        following = builder.add(i, ir.Constant(i64, 1))
        i.add_incoming(following, loop)
        place.add_incoming(builder.add(place, step), loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, target, i, i), codegen


@intrinsic
def copy_rows(typingctx, source, at, source_step, out, to, out_step, width, rows):
    """out[to + r*out_step + j] = source[at + r*source_step + j] for r < rows, j < width; nothing else is read or written.

    Integers become floats, or floats integers, where the dtypes differ so (see ``Conversion``).
    """

    def codegen(context, builder, signature, args):
        _, at, source_step, _, to, out_step, width, rows = args
        conversion = Conversion(context, builder, signature.args[0].dtype, signature.args[3].dtype)
        vectors, lanes = conversion.vectors, conversion.vectors.lanes
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        whole = builder.and_(width, vectors.constant(-lanes))
        mask = vectors.below(builder.sub(width, whole))
        with cgutils.for_range(builder, rows) as row:
            row_at = builder.add(at, builder.mul(row.index, source_step))
            onto = builder.add(to, builder.mul(row.index, out_step))
            with cgutils.for_range(builder, builder.udiv(whole, vectors.constant(lanes))) as block:
                j = builder.mul(block.index, vectors.constant(lanes))
                conversion.store(conversion.load(source, builder.add(row_at, j)), out, builder.add(onto, j))
            with builder.if_then(builder.icmp_signed("<", whole, width)):
                pixels = conversion.load(source, builder.add(row_at, whole), mask)
                conversion.store(pixels, out, builder.add(onto, whole), mask)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, out, i, i, i, i), codegen


def _streamed(whole_vectors: bool):
    """Intrinsic: out[to + j] = source[at + j] for j < count, past the caches; in vectors, which begin at one's border in
    ``out``, or element by element.
    """

    def codegen(context, builder, signature, args):
        _, at, _, to, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2))
        lanes = vectors.lanes if whole_vectors else 1
        # a lone element as an integer: processors have no such store of a float
        kind = vectors.type if whole_vectors else ir.IntType(8 * vectors.size)
        past_the_caches = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])

        def place(array, first, j):
            return builder.bitcast(builder.gep(array, [builder.add(first, j)]), kind.as_pointer())

        with cgutils.for_range(builder, builder.udiv(count, vectors.constant(lanes))) as step:
            j = builder.mul(step.index, vectors.constant(lanes))
            value = builder.load(place(source, at, j), align=vectors.size)
            stored = builder.store(value, place(out, to, j), align=lanes * vectors.size)
            stored.set_metadata("nontemporal", past_the_caches)
        return context.get_dummy_value()

    def typing(typingctx, source, at, out, to, count):
        i = types.int64
        return types.void(source, i, out, i, i), codegen

    return intrinsic(typing)


_stream_vectors, _stream_elements = _streamed(True), _streamed(False)


@njit(nogil=True)
def stream(source, at, out, to, count):
    """out[to + j] = source[at + j] for j < count, past the caches, which need not read what is overwritten.

    The lines that a run shares with its neighbours too: an ordinary store to a line that is far away keeps all that follow
    waiting, 400 cycles. ``finish_streams`` comes before other threads may read.
    """
    begins = out.ctypes.data + to * out.itemsize
    if begins % out.itemsize:
        copy(source, at, out, to, count)
        return
    head = min(count, -begins % LINE_BYTES // out.itemsize)
    whole = (count - head) * out.itemsize // LINE_BYTES * LINE_BYTES // out.itemsize
    _stream_elements(source, at, out, to, head)
    _stream_vectors(source, at + head, out, to + head, whole)
    _stream_elements(source, at + head + whole, out, to + head + whole, count - head - whole)


@intrinsic
def finish_streams(typingctx):
    """Stores past the caches before this come before what follows it."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def add_rows(typingctx, source, at, source_step, target, to, target_step, width, rows):
    """target[to + r*target_step + j] += source[at + r*source_step + j] for r < rows, j < width, whole vectors of floats."""

    def codegen(context, builder, signature, args):
        _, at, source_step, _, to, target_step, width, rows = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes = vectors.memory, vectors.constant(vectors.lanes)
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        with cgutils.for_range(builder, rows) as row:
            row_at = builder.add(at, builder.mul(row.index, source_step))
            onto = builder.add(to, builder.mul(row.index, target_step))
            with cgutils.for_range(builder, builder.udiv(width, lanes)) as block:
                j = builder.mul(block.index, lanes)
                place = memory.address(target, builder.add(onto, j))
                added = memory.load(memory.address(source, builder.add(row_at, j)))
                memory.store(builder.fadd(memory.load(place), added), place)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, target, i, i, i, i), codegen


@intrinsic
def spread(typingctx, source, at, stride, out, to, count):
    """out[to + stride*j + r] = source[at + j] for j < count, r < stride; nothing else is read or written."""

    def codegen(context, builder, signature, args):
        _, at, stride, _, to, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes = vectors.memory, vectors.constant(vectors.lanes)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        whole = builder.and_(stride, vectors.constant(-vectors.lanes))
        mask = vectors.below(builder.sub(stride, whole))
        with cgutils.for_range(builder, count) as pixel:
            value = builder.load(builder.gep(source, [builder.add(at, pixel.index)]), align=vectors.size)
            value = splat(builder, value, vectors.type)
            onto = builder.add(to, builder.mul(stride, pixel.index))
            with cgutils.for_range(builder, builder.udiv(whole, lanes)) as block:
                memory.store(value, memory.address(out, builder.add(onto, builder.mul(block.index, lanes))))
            memory.store(value, memory.address(out, builder.add(onto, whole)), mask)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, out, i, i), codegen


@intrinsic
def clear(typingctx, out, at, count):
    """out[at + j] = 0 for j < count, by the C library, which need not fetch long runs before it writes them."""

    def codegen(context, builder, signature, args):
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        length = builder.mul(args[2], ir.Constant(ir.IntType(64), size))
        cgutils.memset(builder, builder.gep(data, [args[1]]), length, 0)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.int64), codegen


@intrinsic
def copy_grid(typingctx, source, at, source_outer, source_inner, out, to, out_outer, out_inner, outer, inner):
    """out[to + a*out_outer + b*out_inner] = source[at + a*source_outer + b*source_inner] for a < outer, b < inner."""

    def codegen(context, builder, signature, args):
        _, at, source_outer, source_inner, _, to, out_outer, out_inner, outer, inner = args
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4))
        with cgutils.for_range(builder, outer) as row:
            row_at = builder.add(at, builder.mul(row.index, source_outer))
            onto = builder.add(to, builder.mul(row.index, out_outer))
            with cgutils.for_range(builder, inner) as column:
                place = builder.add(row_at, builder.mul(column.index, source_inner))
                value = builder.load(builder.gep(source, [place]), align=size)
                place = builder.add(onto, builder.mul(column.index, out_inner))
                builder.store(value, builder.gep(out, [place]), align=size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, i, out, i, i, i, i, i), codegen


@intrinsic
def halve_rows(typingctx, source, at, source_step, out, to, out_step, odd, width, rows):
    """out[to + r*out_step + q] = source[at + r*source_step + 2q] for r < rows, 2q < width, and the pixels between, at 2q + 1,
    ``odd`` further on.
    """

    def codegen(context, builder, signature, args):
        _, at, source_step, _, to, out_step, odd, width, rows = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant

        def halve(place, onto, left=None):
            masks = [None if left is None else vectors.below(left, v) for v in range(2)]
            pixels = [memory.load(memory.address(source, builder.add(place, constant(v * lanes))), masks[v]) for v in range(2)]
            for phase, target in enumerate((onto, builder.add(onto, odd))):
                order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [2 * lane + phase for lane in range(lanes)])
                mask = None
                if left is not None:
                    mask = vectors.below(builder.lshr(builder.add(left, constant(1 - phase)), constant(1)))
                memory.store(builder.shuffle_vector(*pixels, order), memory.address(out, target), mask)

        whole = builder.and_(width, constant(-2 * lanes))
        left = builder.sub(width, whole)
        with cgutils.for_range(builder, rows) as row:
            row_at = builder.add(at, builder.mul(row.index, source_step))
            onto = builder.add(to, builder.mul(row.index, out_step))
            with cgutils.for_range(builder, builder.udiv(whole, constant(2 * lanes))) as block:
                j = builder.mul(block.index, constant(lanes))
                halve(builder.add(row_at, builder.add(j, j)), builder.add(onto, j))
            with builder.if_then(builder.icmp_signed("<", whole, width)):
                halve(builder.add(row_at, whole), builder.add(onto, builder.udiv(whole, constant(2))), left)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, out, i, i, i, i, i), codegen


def _stamp(kernel: tuple[int, int], scale: tuple[int, int]):
    """Intrinsic: kernels in a row, flipped and summed over blocks of ``scale``, to rows ``out_step`` apart.

    ``out[to + i*out_step + (y*width + x)] = sum over a < scale[0], b < scale[1] of flipped[i, y - a, x - b]``, i < count, where
    ``width = kernel[1] + scale[1] - 1`` and kernel i begins at ``source[at + i*prod(kernel)]``.
    """
    size = kernel[0] * kernel[1]
    shape = tuple(k + s - 1 for k, s in zip(kernel, scale))

    def codegen(context, builder, signature, args):
        _, at, _, to, out_step, count = args
        lanes = shape[0] * shape[1]
        vectors = Vectors(context, builder, signature.args[0].dtype, lanes)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2))
        memory, constant = vectors.memory, vectors.constant
        add = builder.add if isinstance(vectors.type.element, ir.IntType) else builder.fadd
        mask = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [int(lane < size) for lane in range(lanes)])
        zeros = ir.Constant(vectors.type, None)

        def shifted(value, a, b):
            order = []
            for lane in range(lanes):
                y, x = divmod(lane, shape[1])
                y, x = kernel[0] - 1 - y + a, kernel[1] - 1 - x + b
                order.append(y * kernel[1] + x if 0 <= y < kernel[0] and 0 <= x < kernel[1] else lanes)
            return builder.shuffle_vector(value, zeros, ir.Constant(ir.VectorType(ir.IntType(32), lanes), order))

        with cgutils.for_range(builder, count) as number:
            place = builder.add(at, builder.mul(number.index, constant(size)))
            value = memory.load(memory.address(source, place), mask)
            terms = [shifted(value, a, b) for a in range(scale[0]) for b in range(scale[1])]
            total = terms[0]
            for term in terms[1:]:
                total = add(total, term)
            memory.store(total, memory.address(out, builder.add(to, builder.mul(number.index, out_step))))
        return context.get_dummy_value()

    def typing(typingctx, source, at, out, to, out_step, count):
        i = types.int64
        return types.void(source, i, out, i, i, i), codegen

    return intrinsic(typing)


stamp_3x3_by_2 = _stamp((3, 3), (2, 2))
