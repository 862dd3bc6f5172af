"""Elements from listed places, and channels of pixels apart."""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd import (
    VECTOR_BYTES,
    _below as first_lanes,
    _call as call_llvm,
    _exceeds,
    _splat as splat,
    _suffix as type_suffix,
    _Vectors as Vectors,
)


def lanes_of_places(context, dtype) -> int:
    """How many elements a vector holds whose places are numbers of 32 bits."""
    return VECTOR_BYTES // max(4, context.get_abi_sizeof(context.get_data_type(dtype)))


def load_places(builder, vectors, source, places, mask):
    """The elements ``source[places]`` in a vector; those that a mask leaves out are not read."""
    pointers = builder.gep(source, [vectors.constant(0)])
    # llvmlite knows no address of vectors of numbers, LLVM does
    pointers.indices, pointers.type = [places], ir.VectorType(source.type, vectors.lanes)
    mask = ir.Constant(ir.VectorType(ir.IntType(1), vectors.lanes), [1] * vectors.lanes) if mask is None else mask
    args = [pointers, ir.Constant(ir.IntType(32), vectors.size), mask, ir.Constant(vectors.type, None)]
    return call_llvm(builder, f"llvm.masked.gather.{type_suffix(vectors.type)}.v{vectors.lanes}p0", vectors.type, args)


@intrinsic
def gather(typingctx, source, at, places, first, out, to, count):
    """out[to + j] = source[at + places[first + j]] for j < count; places are int32; nothing else is read or written."""

    def codegen(context, builder, signature, args):
        _, at, _, first, _, to, count = args
        dtype = signature.args[0].dtype
        lanes = lanes_of_places(context, dtype)
        vectors, numbers = Vectors(context, builder, dtype, lanes), Vectors(context, builder, types.int32, lanes)
        source, places, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 4))
        source, constant = builder.gep(source, [at]), vectors.constant

        def move(j, mask=None):
            place = numbers.memory.load(numbers.memory.address(places, builder.add(first, j)), mask)
            vectors.memory.store(
                load_places(builder, vectors, source, place, mask), vectors.memory.address(out, builder.add(to, j)), mask
            )

        blocks = builder.udiv(count, constant(lanes))
        with cgutils.for_range(builder, blocks) as block:
            move(builder.mul(block.index, constant(lanes)))
        whole = builder.mul(blocks, constant(lanes))
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            move(whole, first_lanes(builder, lanes, builder.sub(count, whole)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, places, i, out, i, i), codegen


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


@intrinsic
def max_lines(typingctx, line, at, taps, count, base, places, values, to, numbers, numbers_to, width):
    """values[to + j] = the largest line[at + taps[2t + 1] + j] over taps t; numbers[numbers_to + j] = base + places[j] + taps[2t].

    t is the first of the ``count`` taps that holds the largest value, the last NaN where there is one. taps[2t] has 31 bits;
    j < width; nothing else is read or written.
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
