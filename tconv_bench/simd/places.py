"""Elements from listed places."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.vectors import VECTOR_BYTES, Vectors, call_llvm, first_lanes, type_suffix


def lanes_of_places(context, dtype):
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
def put_channels(typingctx, values, places, at, channels, pixels, out, to):
    """out[to + places[j]*channels + c] = values[j], j = at + pixel*channels + c, for c < channels and pixel < pixels, in order.

    Plain addresses, which Numba's own loop checks for negative ones.
    """

    def codegen(context, builder, signature, args):
        _, _, at, channels, pixels, _, to = args
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        values, places, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 5))
        with cgutils.for_range(builder, pixels) as pixel:
            first = builder.add(at, builder.mul(pixel.index, channels))
            with cgutils.for_range(builder, channels) as channel:
                number = builder.add(first, channel.index)
                place = builder.mul(builder.load(builder.gep(places, [number])), channels)
                place = builder.add(to, builder.add(place, channel.index))
                value = builder.load(builder.gep(values, [number]), align=size)
                builder.store(value, builder.gep(out, [place]), align=size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(values, places, i, i, i, out, i), codegen


@intrinsic
def move_elements(typingctx, source, at, sources, out, places, count):
    """out[places[i]] = source[at + sources[i]] for i < count, in order; both lists are int32.

    Plain addresses, which Numba's own loop checks for negative ones.
    """

    def codegen(context, builder, signature, args):
        _, at, _, _, _, count = args
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        source, sources, out, places = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 3, 4)
        )
        source, i64 = builder.gep(source, [at]), ir.IntType(64)
        with cgutils.for_range(builder, count) as element:
            from_, to = (builder.sext(builder.load(builder.gep(list_, [element.index])), i64) for list_ in (sources, places))
            builder.store(builder.load(builder.gep(source, [from_]), align=size), builder.gep(out, [to]), align=size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, sources, out, places, i), codegen
