"""Sums along memory: of all elements, of what is not finite, and multiply-adds that measure the processor's peak."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.vectors import VECTOR_BYTES, Memory, Vectors, first_lanes, multiply_add, phi_from, splat


@intrinsic
def difference_to_itself(typingctx, source, at, count):
    """The sum of x - x over ``source[at : at + count]``: 0 where all of them are finite, else NaN."""

    def codegen(context, builder, signature, args):
        _, at, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = Memory(builder, vector, size)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        subtract, add = (builder.sub, builder.add) if isinstance(element, ir.IntType) else (builder.fsub, builder.fadd)
        start = builder.block
        loop, end = builder.append_basic_block("finite_loop"), builder.append_basic_block("finite_end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(i64, 0)), loop, end)
        builder.position_at_end(loop)
        j, total = phi_from(builder, ir.Constant(i64, 0), start), phi_from(builder, ir.Constant(vector, None), start)
        mask = first_lanes(builder, lanes, builder.sub(count, j))
        values = memory.load(memory.address(data, builder.add(at, j)), mask)
        sum_ = add(total, subtract(values, values))
        following = builder.add(j, ir.Constant(i64, lanes))
        j.add_incoming(following, loop)
        total.add_incoming(sum_, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        result = phi_from(builder, ir.Constant(vector, None), start)
        result.add_incoming(sum_, loop)
        scalar = builder.extract_element(result, ir.Constant(ir.IntType(32), 0))
        for number in range(1, lanes):
            scalar = add(scalar, builder.extract_element(result, ir.Constant(ir.IntType(32), number)))
        return scalar

    return source.dtype(source, types.int64, types.int64), codegen


@intrinsic
def total(typingctx, source, at, count):
    """The sum of ``source[at : at + count]``: each lane of four vectors adds every fourth vector's in order, then all lanes."""

    def codegen(context, builder, signature, args):
        _, at, count = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        add = builder.add if isinstance(vectors.type.element, ir.IntType) else builder.fadd
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vectors.type, None)) for _ in range(4)]

        def add_block(place, left=None):
            for v, held in enumerate(sums):
                mask = None if left is None else vectors.below(left, v)
                value = memory.load(memory.address(data, builder.add(place, constant(v * lanes))), mask)
                builder.store(add(builder.load(held), value), held)

        blocks = builder.udiv(count, constant(4 * lanes))
        with cgutils.for_range(builder, blocks) as block:
            add_block(builder.add(at, builder.mul(block.index, constant(4 * lanes))))
        done = builder.mul(blocks, constant(4 * lanes))
        with builder.if_then(builder.icmp_signed("<", done, count)):
            add_block(builder.add(at, done), builder.sub(count, done))
        first, second, third, fourth = map(builder.load, sums)
        lane_sums = add(add(first, second), add(third, fourth))
        scalar = builder.extract_element(lane_sums, ir.Constant(ir.IntType(32), 0))
        for number in range(1, lanes):
            scalar = add(scalar, builder.extract_element(lane_sums, ir.Constant(ir.IntType(32), number)))
        return scalar

    return source.dtype(source, types.int64, types.int64), codegen


CHAINS = 16  # independent multiply-adds in flight: latency 4 x 2 units and more, within 16 or 32 registers


@intrinsic
def multiply_add_chains(typingctx, array, steps):
    """``CHAINS`` vectors in registers, each ``steps`` times a = a*b + c with b, c = ``array[:2]``; a lane of their sum.

    ``2 * lanes * CHAINS * steps`` operations that touch no memory: what the multiply-add units can do.
    """

    def codegen(context, builder, signature, args):
        element = context.get_data_type(signature.args[0].dtype)
        lanes = VECTOR_BYTES // context.get_abi_sizeof(element)
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        # loaded, not constant, so that nothing is computed while compiling
        b, c = (splat(builder, builder.load(builder.gep(data, [ir.Constant(i64, i)])), vector) for i in range(2))
        start = builder.block
        loop, end = builder.append_basic_block("chain_loop"), builder.append_basic_block("chain_end")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(i64)
        index.add_incoming(ir.Constant(i64, 0), start)
        sums = [builder.phi(vector) for _ in range(CHAINS)]
        following = [multiply_add(builder, value, b, c) for value in sums]
        for number, (phi, value) in enumerate(zip(sums, following)):
            phi.add_incoming(ir.Constant(vector, [float(number)] * lanes), start)
            phi.add_incoming(value, loop)
        next_index = builder.add(index, ir.Constant(i64, 1))
        index.add_incoming(next_index, loop)
        builder.cbranch(builder.icmp_signed("<", next_index, args[1]), loop, end)
        builder.position_at_end(end)
        total = following[0]
        for value in following[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return array.dtype(array, types.int64), codegen
