"""Rows woven into one and taken apart again, in registers."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.vectors import VECTOR_BYTES, Memory, Vectors, first_lanes, phi_from


def interleaved(builder, inputs):
    """The lanes of s vectors in turn, as s vectors: out[e] = inputs[e % s][e // s]."""
    stride, lanes = len(inputs), inputs[0].type.count
    if stride == 1:
        return inputs
    half = stride // 2
    if stride in (4, 8):
        pairs = [interleaved(builder, [inputs[i], inputs[i + half]]) for i in range(half)]
        # pairs[i] = (first, second half) of inputs i and i + half in turn; interleaving those of all i gives the order
        return interleaved(builder, [low for low, _ in pairs]) + interleaved(builder, [high for _, high in pairs])
    index = ir.VectorType(ir.IntType(32), lanes)
    outputs = []
    for v in range(stride):
        source = [divmod(v * lanes + lane, stride) for lane in range(lanes)]
        total = inputs[0]
        for number in range(1, stride):
            lanes_of = [
                (j if phase == 0 else lane) if phase < number and number == 1
                else lane if phase < number
                else lanes + j if phase == number
                else 0
                for lane, (j, phase) in enumerate(source)
            ]  # fmt: skip
            total = builder.shuffle_vector(total, inputs[number], ir.Constant(index, lanes_of))
        outputs.append(total)
    return outputs


def _interleave(stride: int):
    """Intrinsic: out[to + stride*j + r] = source[at + r*step + j] for the first ``count`` elements of out."""

    def codegen(context, builder, signature, args):
        _, at, step, _, to, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))

        def constant(value):
            return ir.Constant(i64, value)

        def outputs(j, masks=(None,) * stride):
            # a copy may end where the caller's memory does; interleaved sums have a vector to spare
            load_mask = masks[0] if stride == 1 else None
            rows = [builder.add(at, builder.mul(step, constant(r))) for r in range(stride)]
            return interleaved(builder, [memory.load(memory.address(source, builder.add(row, j)), load_mask) for row in rows])

        def place(done, v):
            return memory.address(out, builder.add(builder.add(to, done), constant(v * lanes)))

        start = builder.block
        loop, tail, partial, end = (
            builder.append_basic_block(f"interleave_{name}") for name in ("loop", "tail", "part", "end")
        )
        block = constant(stride * lanes)
        builder.cbranch(builder.icmp_signed(">=", count, block), loop, tail)
        builder.position_at_end(loop)
        done, j = phi_from(builder, constant(0), start), phi_from(builder, constant(0), start)
        for v, value in enumerate(outputs(j)):
            memory.store(value, place(done, v))
        next_done, next_j = builder.add(done, block), builder.add(j, constant(lanes))
        done.add_incoming(next_done, loop)
        j.add_incoming(next_j, loop)
        builder.cbranch(builder.icmp_signed("<=", builder.add(next_done, block), count), loop, tail)

        builder.position_at_end(tail)
        tail_done, tail_j = phi_from(builder, constant(0), start), phi_from(builder, constant(0), start)
        tail_done.add_incoming(next_done, loop)
        tail_j.add_incoming(next_j, loop)
        builder.cbranch(builder.icmp_signed("<", tail_done, count), partial, end)
        builder.position_at_end(partial)
        left = builder.sub(count, tail_done)
        masks = [first_lanes(builder, lanes, left, v * lanes) for v in range(stride)]
        for v, value in enumerate(outputs(tail_j, masks)):
            memory.store(value, place(tail_done, v), masks[v])
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, source, at, step, out, to, count):
        i = types.int64
        return types.void(source, i, i, out, i, i), codegen

    return intrinsic(typing)


INTERLEAVED = (1, 2, 3, 4, 5, 6, 7, 8)  # strides with code of their own
_interleave_1 = _interleave(1)
_interleave_2 = _interleave(2)
_interleave_3 = _interleave(3)
_interleave_4 = _interleave(4)
_interleave_5 = _interleave(5)
_interleave_6 = _interleave(6)
_interleave_7 = _interleave(7)
_interleave_8 = _interleave(8)


@njit(nogil=True)
def copy(source, at, out, to, count):
    """out[to + j] = source[at + j] for j < count."""
    _interleave_1(source, at, 0, out, to, count)


@njit(nogil=True)
def interleave(stride, source, at, step, out, to, count):
    """out[to + stride*j + r] = source[at + r*step + j], for the first ``count`` elements of out.

    Reads whole vectors of ``source``, up to one beyond the last element named where stride > 1.
    """
    if stride == 1:
        _interleave_1(source, at, step, out, to, count)
    elif stride == 2:
        _interleave_2(source, at, step, out, to, count)
    elif stride == 3:
        _interleave_3(source, at, step, out, to, count)
    elif stride == 4:
        _interleave_4(source, at, step, out, to, count)
    elif stride == 5:
        _interleave_5(source, at, step, out, to, count)
    elif stride == 6:
        _interleave_6(source, at, step, out, to, count)
    elif stride == 7:
        _interleave_7(source, at, step, out, to, count)
    elif stride == 8:
        _interleave_8(source, at, step, out, to, count)
    else:
        for r in range(min(stride, count)):
            for j in range((count - r + stride - 1) // stride):
                out[to + stride * j + r] = source[at + r * step + j]


def _deinterleave(stride: int):
    """Intrinsic: out[to + r*step + j] = source[at + stride*j + r], j < count, r < stride; 0 outside ``first ... last - 1``."""

    def codegen(context, builder, signature, args):
        _, at, first, last, _, to, step, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        index = ir.VectorType(ir.IntType(32), lanes)
        memory = Memory(builder, vector, size)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4))

        def constant(value):
            return ir.Constant(i64, value)

        start = builder.block
        loop, end = builder.append_basic_block("deinterleave_loop"), builder.append_basic_block("deinterleave_end")
        builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, end)
        builder.position_at_end(loop)
        j = phi_from(builder, constant(0), start)
        element_at = builder.mul(j, constant(stride))
        before, below = (builder.sub(bound, element_at) for bound in (first, last))
        loaded = []
        for v in range(stride):
            mask = builder.and_(
                builder.not_(first_lanes(builder, lanes, before, v * lanes)), first_lanes(builder, lanes, below, v * lanes)
            )
            place = memory.address(source, builder.add(builder.add(at, element_at), constant(v * lanes)))
            loaded.append(memory.load(place, mask))
        left = first_lanes(builder, lanes, builder.sub(count, j))
        for r in range(stride):
            total = loaded[0]
            for v in range(1, stride):
                # lanes of this phase that lie in vectors before v, then in v
                chosen = []
                for lane in range(lanes):
                    own, place = divmod(lane * stride + r, lanes)
                    kept = place if v == 1 else lane
                    chosen.append(lanes + place if own == v else kept if own < v else 0)
                total = builder.shuffle_vector(total, loaded[v], ir.Constant(index, chosen))
            row = builder.add(builder.add(to, builder.mul(step, constant(r))), j)
            memory.store(total, memory.address(out, row), left)
        following = builder.add(j, constant(lanes))
        j.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, source, at, first, last, out, to, step, count):
        i = types.int64
        return types.void(source, i, i, i, out, i, i, i), codegen

    return intrinsic(typing)


_deinterleave_1 = _deinterleave(1)
_deinterleave_2 = _deinterleave(2)
_deinterleave_3 = _deinterleave(3)
_deinterleave_4 = _deinterleave(4)


@njit(nogil=True)
def deinterleave(stride, source, at, first, last, out, to, step, count):
    """out[to + r*step + j] = source[at + stride*j + r] for j < count and r < stride, a member of (1, 2, 3, 4).

    Elements before ``first`` or from ``last`` on, counted from ``at``, are not read and count as zero.
    """
    if stride == 4:
        _deinterleave_4(source, at, first, last, out, to, step, count)
    elif stride == 3:
        _deinterleave_3(source, at, first, last, out, to, step, count)
    elif stride == 2:
        _deinterleave_2(source, at, first, last, out, to, step, count)
    else:
        _deinterleave_1(source, at, first, last, out, to, step, count)


def _taken_apart(builder, vectors):
    """Vectors that hold elements in turn, as vectors of each phase: the inverse of ``interleaved``; 2**k of them."""
    if len(vectors) == 1:
        return vectors
    lanes, index = vectors[0].type.count, ir.VectorType(ir.IntType(32), vectors[0].type.count)
    halves = []
    for phase in range(2):
        order = ir.Constant(index, [2 * lane + phase for lane in range(lanes)])
        halves.append([builder.shuffle_vector(*vectors[v : v + 2], order) for v in range(0, len(vectors), 2)])
    even, odd = (_taken_apart(builder, half) for half in halves)
    return [vector for pair in zip(even, odd) for vector in pair]


def _part_channels(phases: int):
    """Intrinsic: ``part_channels`` of 2 or 4 phases."""

    def codegen(context, builder, signature, args):
        _, at, channels, pixels, _, to, out_step, _ = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        source, out, offsets = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4, 7))
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        onto = [builder.add(to, builder.load(builder.gep(offsets, [constant(r)]))) for r in range(phases)]
        whole = builder.and_(channels, constant(-lanes))
        left = builder.sub(channels, whole)
        loaded = [first_lanes(builder, lanes, builder.mul(left, constant(phases)), v * lanes) for v in range(phases)]
        stored = first_lanes(builder, lanes, left)

        def part(pixel_at, places, j, masks=(None,) * phases, mask=None):
            first = builder.add(pixel_at, builder.mul(j, constant(phases)))
            found = [
                memory.load(memory.address(source, builder.add(first, constant(v * lanes))), masks[v]) for v in range(phases)
            ]
            for place, value in zip(places, _taken_apart(builder, found)):
                memory.store(value, memory.address(out, builder.add(place, j)), mask)

        with cgutils.for_range(builder, pixels) as pixel:
            pixel_at = builder.add(at, builder.mul(pixel.index, builder.mul(channels, constant(phases))))
            moved = builder.mul(pixel.index, out_step)
            places = [builder.add(place, moved) for place in onto]
            with cgutils.for_range(builder, builder.udiv(whole, constant(lanes))) as block:
                part(pixel_at, places, builder.mul(block.index, constant(lanes)))
            with builder.if_then(builder.icmp_signed("<", whole, channels)):
                part(pixel_at, places, whole, loaded, stored)
        return context.get_dummy_value()

    def typing(typingctx, source, at, channels, pixels, out, to, out_step, offsets):
        i = types.int64
        return types.void(source, i, i, i, out, i, i, offsets), codegen

    return intrinsic(typing)


_part_channels_2 = _part_channels(2)
_part_channels_4 = _part_channels(4)


@njit(nogil=True)
def part_channels(phases, source, at, channels, pixels, out, to, out_step, offsets):
    """out[to + offsets[r] + j*out_step + c] = source[at + (j*channels + c)*phases + r] for r < phases, which is 2 or 4.

    For c < channels and j < pixels; nothing else is read or written.
    """
    if phases == 2:
        _part_channels_2(source, at, channels, pixels, out, to, out_step, offsets)
    else:
        _part_channels_4(source, at, channels, pixels, out, to, out_step, offsets)
