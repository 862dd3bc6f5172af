"""Explicit CPU vectors for Numba: the register tile under every variant.

Numba's own loops keep small accumulators in memory and reach 3 GFLOP/s where the same arithmetic in registers reaches the
machine's peak (docs: ARCHITECTURE.md, "Why a tile"). This module is the only place that emits LLVM IR.

``rank_k`` computes ``C[m, n] (+)= sum_k A[m, k] * B[k, n]`` on strided views: ``n`` runs over contiguous vector lanes of B
and C, A is read scalar by scalar and broadcast. Its core is a tile of ``MR x NV`` vector accumulators (Goto & van de
Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). Every element's sum runs over k in order, so a
result depends neither on the tile that computed it nor on the number of threads. Floats are fused multiply-adds where the
processor has them; integers wrap as NumPy's do.
"""

from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_NAMES_OF_64_BYTES = ("avx512", "skx", "cascadelake", "cooperlake", "icelake", "sapphire", "znver4", "znver5", "x86-64-v4")
_NAMES_OF_32_BYTES = ("haswell", "broadwell", "skylake", "znver", "alderlake", "core-avx2", "x86-64-v3")


def vector_bytes(cpu_name: str, cpu_features: str) -> int:
    """Width in bytes of the widest vector worth using; a feature that is listed as on or off outweighs the name."""
    features = (cpu_features or "").split(",")
    for width, feature, names in ((64, "avx512f", _NAMES_OF_64_BYTES), (32, "avx2", _NAMES_OF_32_BYTES)):
        if f"-{feature}" in features:
            continue
        if f"+{feature}" in features or any(name in cpu_name for name in names):
            return width
    return 16


def _target() -> tuple[str, str]:
    """(name, features) of the processor that Numba compiles for; ``NUMBA_CPU_NAME`` overrides the host's."""
    codegen = cpu_target.target_context.codegen()
    if config.CPU_NAME:
        return config.CPU_NAME, config.CPU_FEATURES or ""
    return codegen._get_host_cpu_name(), codegen._get_host_cpu_features()


CPU_NAME, CPU_FEATURES = _target()
VECTOR_BYTES = vector_bytes(CPU_NAME, CPU_FEATURES)
MR = 6
# 32 vector registers with AVX-512 hold 6 x 4 accumulators, 4 of B and a broadcast; 16 registers hold 6 x 2.
NV = 4 if VECTOR_BYTES == 64 else 2


def _splat(builder, scalar, vector):
    lane0 = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(lane0, ir.Constant(vector, ir.Undefined), lanes)


def _call(builder, name, result, args):
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _suffix(vector):
    scalar = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    return f"v{vector.count}{scalar}"


def _multiply_add(builder, a, b, c):
    if isinstance(a.type.element, ir.IntType):
        return builder.add(builder.mul(a, b), c)
    # fmuladd, not fma: on a processor without fused multiply-add, llvm.fma calls libm for every lane.
    return _call(builder, f"llvm.fmuladd.{_suffix(a.type)}", a.type, [a, b, c])


class _Memory:
    """Vector loads and stores at element addresses; ``mask`` limits them to the first lanes."""

    def __init__(self, builder, vector, align):
        self.builder, self.vector, self.align = builder, vector, align

    def address(self, base, index):
        return self.builder.gep(base, [index])

    def _as_vector(self, pointer):
        return self.builder.bitcast(pointer, self.vector.as_pointer())

    def load(self, pointer, mask=None):
        pointer = self._as_vector(pointer)
        if mask is None:
            return self.builder.load(pointer, align=self.align)
        args = [pointer, ir.Constant(ir.IntType(32), self.align), mask, ir.Constant(self.vector, None)]
        return _call(self.builder, f"llvm.masked.load.{_suffix(self.vector)}.p0", self.vector, args)

    def store(self, value, pointer, mask=None):
        pointer = self._as_vector(pointer)
        if mask is None:
            self.builder.store(value, pointer, align=self.align)
            return
        args = [value, pointer, ir.Constant(ir.IntType(32), self.align), mask]
        _call(self.builder, f"llvm.masked.store.{_suffix(self.vector)}.p0", ir.VoidType(), args)


def _tile(mr: int, nv: int, masked: bool):
    """Intrinsic: C[mr, nv vectors] (+)= A[mr, k] @ B[k, nv vectors]; ``masked`` limits the single vector to n lanes."""

    def codegen(context, builder, signature, args):
        a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, k, add, n = args
        array_a, array_b, array_c = signature.args[0], signature.args[4], signature.args[7]
        element = context.get_data_type(array_a.dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(element, lanes)
        memory = _Memory(builder, vector, size)
        data_a, data_b, data_c = (
            context.make_array(array)(context, builder, value).data
            for array, value in ((array_a, a), (array_b, b), (array_c, c))
        )
        i64 = ir.IntType(64)
        mask = None
        if masked:
            iota = ir.Constant(ir.VectorType(i64, lanes), list(range(lanes)))
            mask = builder.icmp_signed("<", iota, _splat(builder, n, ir.VectorType(i64, lanes)))
        c_pointers = []
        for m in range(mr):
            row = memory.address(data_c, builder.add(c_off, builder.mul(c_row, ir.Constant(i64, m))))
            c_pointers += [memory.address(row, ir.Constant(i64, v * lanes)) for v in range(nv)]

        start = builder.block
        add_block = builder.append_basic_block("tile_load")
        init_block = builder.append_basic_block("tile_init")
        loop = builder.append_basic_block("tile_loop")
        end = builder.append_basic_block("tile_end")
        builder.cbranch(add, add_block, init_block)
        builder.position_at_end(add_block)
        loaded = [memory.load(p, mask) for p in c_pointers]
        builder.branch(init_block)

        builder.position_at_end(init_block)
        initial = []
        for value in loaded:
            phi = builder.phi(vector)
            phi.add_incoming(value, add_block)
            phi.add_incoming(ir.Constant(vector, None), start)
            initial.append(phi)
        has_work = builder.icmp_signed(">", k, ir.Constant(i64, 0))
        builder.cbranch(has_work, loop, end)

        builder.position_at_end(loop)
        index = builder.phi(i64)
        at_a, at_b = builder.phi(i64), builder.phi(i64)
        sums = [builder.phi(vector) for _ in c_pointers]
        for phi, first in ((index, ir.Constant(i64, 0)), (at_a, a_off), (at_b, b_off), *zip(sums, initial)):
            phi.add_incoming(first, init_block)
        b_row = memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, ir.Constant(i64, v * lanes)), mask) for v in range(nv)]
        following = []
        for m in range(mr):
            at = builder.add(at_a, builder.mul(a_row, ir.Constant(i64, m)))
            broadcast = _splat(builder, builder.load(memory.address(data_a, at), align=size), vector)
            following += [_multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index = builder.add(index, ir.Constant(i64, 1))
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", next_index, k), loop, end)

        builder.position_at_end(end)
        totals = []
        for pointer, before, after in zip(c_pointers, initial, following):
            total = builder.phi(vector)
            total.add_incoming(before, init_block)
            total.add_incoming(after, loop)
            totals.append((pointer, total))
        for pointer, total in totals:
            memory.store(total, pointer, mask)
        return context.get_dummy_value()

    def typing(typingctx, a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, k, add, n):
        i = types.int64
        return types.void(a, i, i, i, b, i, i, c, i, i, i, types.boolean, i), codegen

    return intrinsic(typing)


# Module-level names: Numba's cache misses on an intrinsic that a closure holds.
_tile_6_full = _tile(6, NV, False)
_tile_2_full = _tile(2, NV, False)
_tile_1_full = _tile(1, NV, False)
_tile_6_tail = _tile(6, 1, True)
_tile_2_tail = _tile(2, 1, True)
_tile_1_tail = _tile(1, 1, True)


@njit(nogil=True)
def rank_k(m, n, k, a, a_off, a_row, a_k, b, b_off, b_k, c, c_off, c_row, add):
    """C[m, n] = (C if add else 0) + sum over k of A[m, k] * B[k, n].

    Offsets and strides count elements: A[i, p] stands at ``a_off + i*a_row + p*a_k``, B[p, j] at ``b_off + p*b_k + j``,
    C[i, j] at ``c_off + i*c_row + j``. The arrays share one dtype; nothing outside the named elements is touched.
    """
    lanes = VECTOR_BYTES // a.itemsize
    wide = NV * lanes
    j = 0
    while j < n:
        left = n - j
        i = 0
        if left >= wide:
            while i + 6 <= m:
                _tile_6_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 6
            while i + 2 <= m:
                _tile_2_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 2
            if i < m:
                _tile_1_full(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
            j += wide
        else:
            while i + 6 <= m:
                _tile_6_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 6
            while i + 2 <= m:
                _tile_2_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
                i += 2
            if i < m:
                _tile_1_tail(a, a_off + i * a_row, a_row, a_k, b, b_off + j, b_k, c, c_off + i * c_row + j, c_row, k, add, left)
            j += lanes


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
        b, c = (_splat(builder, builder.load(builder.gep(data, [ir.Constant(i64, i)])), vector) for i in range(2))
        start = builder.block
        loop, end = builder.append_basic_block("chain_loop"), builder.append_basic_block("chain_end")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(i64)
        index.add_incoming(ir.Constant(i64, 0), start)
        sums = [builder.phi(vector) for _ in range(CHAINS)]
        following = [_multiply_add(builder, value, b, c) for value in sums]
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
