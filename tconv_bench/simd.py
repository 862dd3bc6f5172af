"""Explicit CPU vectors for Numba: the register tile under every variant.

Numba's own loops keep small accumulators in memory and reach 3 GFLOP/s where the same arithmetic in registers reaches the
machine's peak (docs: ARCHITECTURE.md, "Why a tile"). This module is the only place that emits LLVM IR.

``rank_k`` computes ``C[m, n] (+)= sum_k A[m, k] * B[k, n]`` on strided views: ``n`` runs over contiguous vector lanes of B
and C, A is read scalar by scalar and broadcast. Its core is a tile of ``MR x NV`` vector accumulators (Goto & van de
Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). Every element's sum runs over k in order, so a
result depends neither on the tile that computed it nor on the number of threads. Floats are fused multiply-adds where the
processor has them; integers wrap as NumPy's do.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, config, from_dtype, njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from tconv_bench.jit import native

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


def _below(builder, lanes, count, first=0):
    """The mask of lanes whose number, counted from ``first``, is below an int64 ``count``; half as dear as in 64 bits."""
    numbers = ir.VectorType(ir.IntType(32), lanes)
    bound = _splat(builder, builder.trunc(count, ir.IntType(32)), numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, [first + lane for lane in range(lanes)]), bound)


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


class _Vectors:
    """Vectors of a dtype, as wide as the processor's unless ``lanes`` says otherwise, with 64-bit numbers for their lanes."""

    def __init__(self, context, builder, dtype, lanes=None):
        element = context.get_data_type(dtype)
        self.builder, self.size = builder, context.get_abi_sizeof(element)
        self.lanes = lanes or VECTOR_BYTES // self.size
        self.type = ir.VectorType(element, self.lanes)
        self.memory = _Memory(builder, self.type, self.size)

    def constant(self, value):
        return ir.Constant(ir.IntType(64), value)

    def below(self, left, vector=0):
        """The mask of the lanes of the ``vector``-th vector of a row that are among its first ``left`` elements."""
        wide = ir.VectorType(ir.IntType(64), self.lanes)
        numbers = ir.Constant(wide, [vector * self.lanes + lane for lane in range(self.lanes)])
        return self.builder.icmp_signed("<", numbers, _splat(self.builder, left, wide))


class _Conversion:
    """Loads and stores of arrays of two dtypes: the same one, or an integer and the float that its values are computed in.

    A float is stored as the nearest integer, halves upwards, kept within the dtype. In float32, which only 8-bit integers are
    computed in, what lies less than 2**-12 below a half counts as one: sums of exact halves are not exact there.
    """

    def __init__(self, context, builder, source, out):
        self.builder = builder
        self.source, self.out = source, out
        self.computed = source if isinstance(source, types.Float) else out
        lanes = VECTOR_BYTES // context.get_abi_sizeof(context.get_data_type(self.computed))
        self.vectors = _Vectors(context, builder, self.computed, lanes)
        self._loaded, self._stored = (_Vectors(context, builder, dtype, lanes) for dtype in (source, out))

    def load(self, source, place, mask=None):
        memory, kind = self._loaded.memory, self.vectors.type
        value = memory.load(memory.address(source, place), mask)
        if self.source == self.computed:
            return value
        return (self.builder.sitofp if self.source.signed else self.builder.uitofp)(value, kind)

    def store(self, value, out, place, mask=None):
        if self.out != self.computed:
            value = self._rounded(value)
        memory = self._stored.memory
        memory.store(value, memory.address(out, place), mask)

    def _rounded(self, value):
        builder, kind = self.builder, self.vectors.type
        suffix = _suffix(kind)

        def constant(number):
            return ir.Constant(kind, [float(number)] * kind.count)

        low = _call(builder, f"llvm.floor.{suffix}", kind, [value])
        half = constant(0.5 - 2.0**-12 if self.computed == types.float32 else 0.5)
        up = builder.fcmp_ordered(">=", builder.fsub(value, low), half)
        value = builder.fadd(low, builder.select(up, constant(1), constant(0)))
        for number, beyond in ((self.out.minval, "<"), (self.out.maxval, ">")):
            value = builder.select(builder.fcmp_ordered(beyond, value, constant(number)), constant(number), value)
        return (builder.fptosi if self.out.signed else builder.fptoui)(value, self._stored.type)


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
            mask = _below(builder, lanes, n)
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


def _phi_from(builder, value, block):
    phi = builder.phi(value.type)
    phi.add_incoming(value, block)
    return phi


def _ask_for(builder, address, for_writing: bool):
    """Ask for a cache line: to write, into all levels, or to read, into all but the first."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    flags = [ir.Constant(ir.IntType(32), value) for value in ((1, 3, 1) if for_writing else (0, 2, 1))]
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *flags])


def _keep_rolled(builder, back_edge):
    """Tell LLVM not to unroll a loop: two steps at once, its scheduler mixes their loads and runs out of registers."""
    disable = builder.module.add_metadata([ir.MetaDataString(builder.module, "llvm.loop.unroll.disable")])
    # a loop's identity is a node whose first operand is itself
    identity = builder.module.add_metadata([disable, ir.Constant(ir.IntType(64), len(builder.module.metadata))])
    identity.operands = (identity, disable)
    back_edge.set_metadata("llvm.loop", identity)


def _taps_tile(mr: int, nv: int):
    """Intrinsic: C[mr, nv vectors] = start + sum over taps t and k of A_t[k, mr] * B_t[k, nv vectors], sums in registers.

    A_t starts at ``a_at + taps[2t]``, B_t at ``b_at + taps[2t + 1]``; ``start`` is C itself, or ``bias[m]`` in every lane.
    Tiles of 8 vectors and more ask for a cache line at each step, those of 12 for two more, one to write and one to read.
    """
    fetches, streams = mr * nv >= 12, mr * nv >= 8

    def codegen(context, builder, signature, args):
        _, a_at, a_k, _, b_at, b_k, _, first, count, k, from_c, _, bias_at, _, c_at, c_row, _, *fetched = args
        ahead_at, ahead_last, stream, stream_step = fetched
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = _Memory(builder, vector, size)
        data_a, data_b, data_taps, data_bias, data_c, data_ahead = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 6, 11, 13, 16)
        )

        def constant(value):
            return ir.Constant(i64, value)

        c_pointers = []
        for m in range(mr):
            row = memory.address(data_c, builder.add(c_at, builder.mul(c_row, constant(m))))
            c_pointers += [memory.address(row, constant(v * lanes)) for v in range(nv)]
        names = ("load", "bias", "start", "tap", "k", "next", "end")
        load, splat, begin, tap_loop, k_loop, tap_end, end = (builder.append_basic_block(f"taps_{name}") for name in names)
        builder.cbranch(from_c, load, splat)
        builder.position_at_end(load)
        loaded = [memory.load(p) for p in c_pointers]
        builder.branch(begin)
        builder.position_at_end(splat)
        biases = [
            _splat(builder, builder.load(memory.address(data_bias, builder.add(bias_at, constant(m)))), vector)
            for m in range(mr)
        ]
        builder.branch(begin)

        builder.position_at_end(begin)
        initial = []
        for number, value in enumerate(loaded):
            phi = _phi_from(builder, value, load)
            phi.add_incoming(biases[number // nv], splat)
            initial.append(phi)
        has_work = builder.and_(builder.icmp_signed(">", count, constant(0)), builder.icmp_signed(">", k, constant(0)))
        builder.cbranch(has_work, tap_loop, end)

        builder.position_at_end(tap_loop)
        tap = _phi_from(builder, constant(0), begin)
        outer = [_phi_from(builder, value, begin) for value in initial]
        outer_ahead, outer_stream = _phi_from(builder, ahead_at, begin), _phi_from(builder, stream, begin)
        entry = builder.mul(builder.add(first, tap), constant(2))
        a_tap = builder.add(a_at, builder.load(builder.gep(data_taps, [entry])))
        b_tap = builder.add(b_at, builder.load(builder.gep(data_taps, [builder.add(entry, constant(1))])))
        builder.branch(k_loop)

        builder.position_at_end(k_loop)
        index, at_a, at_b = (_phi_from(builder, value, tap_loop) for value in (constant(0), a_tap, b_tap))
        sums = [_phi_from(builder, value, tap_loop) for value in outer]
        ahead, streamed = _phi_from(builder, outer_ahead, tap_loop), _phi_from(builder, outer_stream, tap_loop)
        next_ahead = ahead
        if fetches:
            for place, for_writing in ((0, True), (1, False)):
                pair = builder.add(builder.mul(ahead, constant(2)), constant(place))
                _ask_for(builder, builder.load(builder.gep(data_ahead, [pair])), for_writing)
            one_more = builder.add(ahead, constant(1))
            next_ahead = builder.select(builder.icmp_signed("<", ahead, ahead_last), one_more, ahead)
        if streams:
            _ask_for(builder, streamed, False)
        next_stream = builder.add(streamed, stream_step)
        a_column, b_row = memory.address(data_a, at_a), memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, constant(v * lanes))) for v in range(nv)]
        following = []
        for m in range(mr):
            broadcast = _splat(builder, builder.load(memory.address(a_column, constant(m)), align=size), vector)
            following += [_multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index = builder.add(index, constant(1))
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)), (ahead, next_ahead),
            (streamed, next_stream), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, k_loop)
        _keep_rolled(builder, builder.cbranch(builder.icmp_signed("<", next_index, k), k_loop, tap_end))

        builder.position_at_end(tap_end)
        next_tap = builder.add(tap, constant(1))
        for phi, value in ((tap, next_tap), (outer_ahead, next_ahead), (outer_stream, next_stream), *zip(outer, following)):
            phi.add_incoming(value, tap_end)
        builder.cbranch(builder.icmp_signed("<", next_tap, count), tap_loop, end)

        builder.position_at_end(end)
        totals = []
        for before, after in zip(initial, following):
            total = _phi_from(builder, before, begin)
            total.add_incoming(after, tap_end)
            totals.append(total)
        for pointer, total in zip(c_pointers, totals):
            memory.store(total, pointer)
        return context.get_dummy_value()

    def typing(
        typingctx, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, from_c, bias, bias_at, c, c_at, c_row, ahead, ahead_at,
        ahead_last, stream, stream_step,
    ):  # fmt: skip
        i = types.int64
        return types.void(a, i, i, b, i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, ahead, i, i, i, i), codegen

    return intrinsic(typing)


# Tiles of ``sum_taps``: 32 registers hold 12 x 2 or 6 x 4 accumulators, 16 registers 6 x 2.
TALL = 12 if VECTOR_BYTES == 64 else 6
WIDE = 4 if VECTOR_BYTES == 64 else 2
#: heights of a tile and the vectors along it, dearest first; each height also has 1 vector, for the end of a row
HEIGHTS = tuple(h for h in (12, 8, 6, 4, 3, 2, 1) if h <= TALL)
_taps_12_2 = _taps_tile(TALL, 2)
_taps_12_1 = _taps_tile(TALL, 1)
_taps_8_2 = _taps_tile(min(8, TALL), 2)
_taps_8_1 = _taps_tile(min(8, TALL), 1)
_taps_6_4 = _taps_tile(6, WIDE)
_taps_6_2 = _taps_tile(6, 2)
_taps_6_1 = _taps_tile(6, 1)
_taps_4_4 = _taps_tile(4, WIDE)
_taps_4_2 = _taps_tile(4, 2)
_taps_4_1 = _taps_tile(4, 1)
_taps_3_4 = _taps_tile(3, WIDE)
_taps_3_2 = _taps_tile(3, 2)
_taps_3_1 = _taps_tile(3, 1)
_taps_2_4 = _taps_tile(2, WIDE)
_taps_2_2 = _taps_tile(2, 2)
_taps_2_1 = _taps_tile(2, 1)
_taps_1_4 = _taps_tile(1, WIDE)
_taps_1_2 = _taps_tile(1, 2)
_taps_1_1 = _taps_tile(1, 1)


@njit(nogil=True)
def sum_taps(
    m, vectors, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df
):  # fmt: skip
    """C[i, j] = start + sum over taps t and p of A_t[p, i] * B_t[p, j], with all sums in registers.

    i < m, a member of ``HEIGHTS``; j counts ``vectors`` whole vectors, all of which are read and written: 1, 2, or ``WIDE``
    where m <= 6. ``start`` is C[i, j] where ``add``, else ``bias[bias_at + i]``. Tap t of ``first ... first + count - 1``
    has A_t[p, i] at ``a_at + taps[2t] + p*a_k + i`` and B_t[p, j] at ``b_at + taps[2t + 1] + p*b_k + j``, p < k; C[i, j]
    stands at ``c_at + i*c_row + j``. While they sum, the taller tiles ask for a cache line to write and one to read at each
    step: the addresses ``q[2i]`` and ``q[2i + 1]`` from pair ``q0`` to ``q1``, which exists and is asked for
    again when there are no more; and for the line to read at address ``f``, ``df`` bytes further at each step.
    """
    if vectors == 2:
        if m == 12:
            _taps_12_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 8:
            _taps_8_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 6:
            _taps_6_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 4:
            _taps_4_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 3:
            _taps_3_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 2:
            _taps_2_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        else:
            _taps_1_2(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
    elif vectors == 1:
        if m == 12:
            _taps_12_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 8:
            _taps_8_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 6:
            _taps_6_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 4:
            _taps_4_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 3:
            _taps_3_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 2:
            _taps_2_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        else:
            _taps_1_1(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
    else:
        if m == 6:
            _taps_6_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 4:
            _taps_4_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 3:
            _taps_3_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        elif m == 2:
            _taps_2_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)
        else:
            _taps_1_4(a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0, q1, f, df)


def _native_sum_taps(
    m, vectors, tiles, lanes, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c, c_at, c_row, q, q0,
    q1, f, df
):  # fmt: skip
    # a call and its arguments once for several tiles side by side: 250 cycles beside 1536 of multiply-adds where k is 64
    for _ in range(tiles):
        sum_taps(m, vectors, carray(a, 1), a_at, a_k, carray(b, 1), b_at, b_k, carray(taps, 1), first, count, k, add != 0,
                 carray(bias, 1), bias_at, carray(c, 1), c_at, c_row, carray(q, 1), q0, q1, f, df)  # fmt: skip
        f += count * k * df
        b_at += vectors * lanes
        c_at += vectors * lanes
        q0 = min(q1, q0 + count * k)


@cache
def native_sum_taps(dtype: str) -> Any:
    """``sum_taps`` of ``tiles`` side by side as machine code of its own; kernels take its ``address`` to ``call_sum_taps``."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    return native(types.void(i, i, i, i, p, i, i, p, i, i, t, i, i, i, i, p, i, p, i, i, t, i, i, i, i), _native_sum_taps)


def _call_address(context, builder, signature, args):
    """Call machine code at the address ``args[0]``, with the others: arrays by their data, truth values as int64."""
    i64, values = ir.IntType(64), []
    for kind, value in zip(signature.args[1:], args[1:]):
        if isinstance(kind, types.Array):
            values.append(context.make_array(kind)(context, builder, value).data)
        else:
            values.append(builder.zext(value, i64) if value.type != i64 else value)
    function = ir.FunctionType(ir.VoidType(), [value.type for value in values]).as_pointer()
    builder.call(builder.inttoptr(args[0], function), values)
    return context.get_dummy_value()


@intrinsic
def call_sum_taps(
    typingctx, address, m, vectors, tiles, lanes, a, a_at, a_k, b, b_at, b_k, taps, first, count, k, add, bias, bias_at, c,
    c_at, c_row, q, q0, q1, f, df
):  # fmt: skip
    """``sum_taps`` through the address of its machine code, for ``tiles`` of ``vectors`` with so many lanes side by side."""

    i = types.int64
    rest = (i, i, i, i, a, i, i, b, i, i, taps, i, i, i, types.boolean, bias, i, c, i, i, q, i, i, i, i)
    return types.void(i, *rest), _call_address


@intrinsic
def call_task(typingctx, address, task, tables, x, out):
    """Call machine code of type ``void(int64 task, int64* tables, T* x, T* out)`` at an address."""

    return types.void(types.int64, types.int64, tables, x, out), _call_address


@intrinsic
def take_number(typingctx, counters, index):
    """``counters[index]``, which is one more from then on: no two threads get the same number."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counters, types.int64), codegen


@intrinsic
def as_pointer(typingctx, address):
    """An address as the untyped pointer that ``carray`` takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), codegen


def _interleaved(builder, inputs):
    """The lanes of s vectors in turn, as s vectors: out[e] = inputs[e % s][e // s]."""
    stride, lanes = len(inputs), inputs[0].type.count
    if stride == 1:
        return inputs
    half = stride // 2
    if stride in (4, 8):
        pairs = [_interleaved(builder, [inputs[i], inputs[i + half]]) for i in range(half)]
        # pairs[i] = (first, second half) of inputs i and i + half in turn; interleaving those of all i gives the order
        return _interleaved(builder, [low for low, _ in pairs]) + _interleaved(builder, [high for _, high in pairs])
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
        memory = _Memory(builder, vector, size)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))

        def constant(value):
            return ir.Constant(i64, value)

        def outputs(j, masks=(None,) * stride):
            # a copy may end where the caller's memory does; interleaved sums have a vector to spare
            load_mask = masks[0] if stride == 1 else None
            rows = [builder.add(at, builder.mul(step, constant(r))) for r in range(stride)]
            return _interleaved(builder, [memory.load(memory.address(source, builder.add(row, j)), load_mask) for row in rows])

        def place(done, v):
            return memory.address(out, builder.add(builder.add(to, done), constant(v * lanes)))

        start = builder.block
        loop, tail, partial, end = (
            builder.append_basic_block(f"interleave_{name}") for name in ("loop", "tail", "part", "end")
        )
        block = constant(stride * lanes)
        builder.cbranch(builder.icmp_signed(">=", count, block), loop, tail)
        builder.position_at_end(loop)
        done, j = _phi_from(builder, constant(0), start), _phi_from(builder, constant(0), start)
        for v, value in enumerate(outputs(j)):
            memory.store(value, place(done, v))
        next_done, next_j = builder.add(done, block), builder.add(j, constant(lanes))
        done.add_incoming(next_done, loop)
        j.add_incoming(next_j, loop)
        builder.cbranch(builder.icmp_signed("<=", builder.add(next_done, block), count), loop, tail)

        builder.position_at_end(tail)
        tail_done, tail_j = _phi_from(builder, constant(0), start), _phi_from(builder, constant(0), start)
        tail_done.add_incoming(next_done, loop)
        tail_j.add_incoming(next_j, loop)
        builder.cbranch(builder.icmp_signed("<", tail_done, count), partial, end)
        builder.position_at_end(partial)
        left = builder.sub(count, tail_done)
        masks = [_below(builder, lanes, left, v * lanes) for v in range(stride)]
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
        memory = _Memory(builder, vector, size)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4))

        def constant(value):
            return ir.Constant(i64, value)

        start = builder.block
        loop, end = builder.append_basic_block("deinterleave_loop"), builder.append_basic_block("deinterleave_end")
        builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, end)
        builder.position_at_end(loop)
        j = _phi_from(builder, constant(0), start)
        element_at = builder.mul(j, constant(stride))
        before, below = (builder.sub(bound, element_at) for bound in (first, last))
        loaded = []
        for v in range(stride):
            mask = builder.and_(
                builder.not_(_below(builder, lanes, before, v * lanes)), _below(builder, lanes, below, v * lanes)
            )
            place = memory.address(source, builder.add(builder.add(at, element_at), constant(v * lanes)))
            loaded.append(memory.load(place, mask))
        left = _below(builder, lanes, builder.sub(count, j))
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


def _transposed(builder, values):
    """The rows of a square of vectors as its columns."""
    values, lanes, half = list(values), len(values), 1
    index = ir.VectorType(ir.IntType(32), lanes)
    while half < lanes:
        # exchange the off-diagonal quarters of every 2*half x 2*half block
        low = ir.Constant(index, [lane if not lane & half else lanes + lane - half for lane in range(lanes)])
        high = ir.Constant(index, [lane + half if not lane & half else lanes + lane for lane in range(lanes)])
        for i in range(lanes):
            if not i & half:
                a, b = values[i], values[i | half]
                values[i], values[i | half] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        half *= 2
    return values


@intrinsic
def _transpose_block(typingctx, columns, source, at, target, places, first, shift, rows, width, written):
    """target[places[first + k] + shift + j] = source[at + columns*j + k], j < rows, k < width, and 0 for rows <= j < written.

    All three counts are at most the lanes of a vector; a place below zero is left out.
    """

    def codegen(context, builder, signature, args):
        columns, _, at, _, _, first, shift, rows, width, written = args
        element = context.get_data_type(signature.args[1].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = _Memory(builder, vector, size)
        source, target, places = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (1, 3, 4))
        empty = ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)
        mask = _below(builder, lanes, width)
        values = []
        for j in range(lanes):
            exists = builder.icmp_signed("<", ir.Constant(i64, j), rows)
            place = builder.add(at, builder.mul(columns, ir.Constant(i64, j)))
            values.append(memory.load(memory.address(source, place), builder.select(exists, mask, empty)))
        stored = _below(builder, lanes, written)
        for k, value in enumerate(_transposed(builder, values)):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(i64, k), width)):
                place = builder.load(builder.gep(places, [builder.add(first, ir.Constant(i64, k))]))
                with builder.if_then(builder.icmp_signed(">=", place, ir.Constant(i64, 0))):
                    memory.store(value, memory.address(target, builder.add(place, shift)), stored)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, source, i, target, places, i, i, i, i, i), codegen


@njit(nogil=True)
def transpose(step, width, source, at, target, places, shift, rows, written):
    """target[places[k] + shift + j] = source[at + step*j + k] for j < rows and k < width, and 0 for rows <= j < written.

    A place below zero is left out.
    """
    lanes = VECTOR_BYTES // source.itemsize
    for j in range(0, written, lanes):
        for k in range(0, width, lanes):
            _transpose_block(
                step, source, at + j * step + k, target, places, k, shift + j, min(lanes, rows - j), min(lanes, width - k),
                min(lanes, written - j),
            )  # fmt: skip


def _transpose_square(whole: bool):
    """Intrinsic: target[to + k*column_step + j] = source[at + j*row_step + k] for j < rows, k < columns.

    Both are at most a vector's lanes; where ``whole``, ``columns`` is taken for that and all lanes are written for each k.
    """

    def codegen(context, builder, signature, args):
        _, at, row_step, _, to, column_step, rows, columns = args
        vectors = _Vectors(context, builder, signature.args[0].dtype)
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        empty = ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)
        mask, stored = (None, None) if whole else (_below(builder, lanes, columns), _below(builder, lanes, rows))
        values = []
        for j in range(lanes):
            exists = builder.icmp_signed("<", constant(j), rows)
            row = builder.mul(row_step, builder.select(exists, constant(j), constant(0)))
            own = None if whole else builder.select(exists, mask, empty)
            values.append(memory.load(memory.address(source, builder.add(at, row)), own))
        for k, value in enumerate(_transposed(builder, values)):
            place = memory.address(target, builder.add(to, builder.mul(column_step, constant(k))))
            if whole:
                memory.store(value, place)
                continue
            with builder.if_then(builder.icmp_signed("<", constant(k), columns)):
                memory.store(value, place, stored)
        return context.get_dummy_value()

    def typing(typingctx, source, at, row_step, target, to, column_step, rows, columns):
        i = types.int64
        return types.void(source, i, i, target, i, i, i, i), codegen

    return intrinsic(typing)


_transpose_whole = _transpose_square(True)
_transpose_part = _transpose_square(False)


@njit(nogil=True)
def transpose_rows(source, at, row_step, rows, columns, target, to, column_step):
    """target[to + k*column_step + j] = source[at + j*row_step + k] for j < rows, k < columns, k upwards.

    Fewer rows than a vector has lanes are written with what fills it, which the next column overwrites.
    """
    lanes = VECTOR_BYTES // source.itemsize
    for j in range(0, rows, lanes):
        for k in range(0, columns, lanes):
            from_, onto = at + j * row_step + k, to + k * column_step + j
            if columns - k >= lanes and (j == 0 or rows - j >= lanes):
                _transpose_whole(source, from_, row_step, target, onto, column_step, min(lanes, rows - j), lanes)
            else:
                _transpose_part(
                    source, from_, row_step, target, onto, column_step, min(lanes, rows - j), min(lanes, columns - k)
                )


def _native_transpose(step, width, source, at, target, places, shift, rows, written):
    transpose(step, width, carray(source, 1), at, carray(target, 1), carray(places, 1), shift, rows, written)


@cache
def native_transpose(dtype: str) -> Any:
    """``transpose`` as machine code of its own, for ``call_transpose``: a second compilation of it takes 0.5 s."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    return native(types.void(i, i, p, i, p, t, i, i, i), _native_transpose)


@intrinsic
def call_transpose(typingctx, address, step, width, source, at, target, places, shift, rows, written):
    """``transpose`` through the address of its machine code."""

    i = types.int64
    return types.void(i, i, i, source, i, target, places, i, i, i), _call_address


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
        memory = _Memory(builder, vector, size)
        line, weight, taps, sums = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 3, 7))

        def constant(value):
            return ir.Constant(i64, value)

        initial = _splat(builder, bias, vector)
        start = builder.block
        outer, inner, after, end = (builder.append_basic_block(f"lines_{name}") for name in ("outer", "tap", "after", "end"))
        builder.cbranch(builder.icmp_signed("<", begin, count), outer, end)
        builder.position_at_end(outer)
        j = _phi_from(builder, begin, start)
        builder.cbranch(builder.icmp_signed(">", taps_count, constant(0)), inner, after)
        builder.position_at_end(inner)
        tap = _phi_from(builder, constant(0), outer)
        before = [_phi_from(builder, initial, outer) for _ in range(nv)]
        entry = builder.mul(builder.add(first, tap), constant(2))
        factor = memory.address(weight, builder.add(w_at, builder.load(builder.gep(taps, [entry]))))
        factor = _splat(builder, builder.load(factor, align=size), vector)
        source = builder.add(j, builder.load(builder.gep(taps, [builder.add(entry, constant(1))])))
        following = []
        for v, value in enumerate(before):
            pixels = memory.load(memory.address(line, builder.add(source, constant(v * lanes))))
            following.append(_multiply_add(builder, factor, pixels, value))
        next_tap = builder.add(tap, constant(1))
        for phi, value in ((tap, next_tap), *zip(before, following)):
            phi.add_incoming(value, inner)
        builder.cbranch(builder.icmp_signed("<", next_tap, taps_count), inner, after)
        builder.position_at_end(after)
        for v, value in enumerate(following):
            total = _phi_from(builder, initial, outer)
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
        i, place = _phi_from(builder, ir.Constant(i64, 0), start), _phi_from(builder, at, start)
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

    Integers become floats, or floats integers, where the dtypes differ so (see ``_Conversion``).
    """

    def codegen(context, builder, signature, args):
        _, at, source_step, _, to, out_step, width, rows = args
        conversion = _Conversion(context, builder, signature.args[0].dtype, signature.args[3].dtype)
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


def _weigh(taps: int):
    """Intrinsic: ``weigh_pixels`` of a number of taps."""

    def codegen(context, builder, signature, args):
        _, base, _, first, _, w_at, pixels, width, _, to = args
        conversion = _Conversion(context, builder, signature.args[0].dtype, signature.args[8].dtype)
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
                    factors.append(_splat(builder, weight, vectors.type))
            onto = builder.add(to, builder.mul(pixel.index, width))

            def weigh(j, mask=None, sources=sources, factors=factors, onto=onto):
                values = [conversion.load(source, builder.add(place, j), mask) for place in sources]
                total = values[0]
                if factors:
                    total = builder.fmul(factors[0], total)
                    for factor, value in zip(factors[1:], values[1:]):
                        total = _multiply_add(builder, factor, value, total)
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


@intrinsic
def spread(typingctx, source, at, stride, out, to, count):
    """out[to + stride*j + r] = source[at + j] for j < count, r < stride; nothing else is read or written."""

    def codegen(context, builder, signature, args):
        _, at, stride, _, to, count = args
        vectors = _Vectors(context, builder, signature.args[0].dtype)
        memory, lanes = vectors.memory, vectors.constant(vectors.lanes)
        source, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        whole = builder.and_(stride, vectors.constant(-vectors.lanes))
        mask = vectors.below(builder.sub(stride, whole))
        with cgutils.for_range(builder, count) as pixel:
            value = builder.load(builder.gep(source, [builder.add(at, pixel.index)]), align=vectors.size)
            value = _splat(builder, value, vectors.type)
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
        vectors = _Vectors(context, builder, signature.args[0].dtype)
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


def _resample(stride: int, taps: int, apart: bool):
    """Intrinsic: ``resample_rows`` of a stride and a number of taps."""

    def codegen(context, builder, signature, args):
        _, at, line_step, _, w_at, w_step, _, column, _, to, out_step, count, rows = args
        vectors = _Vectors(context, builder, signature.args[0].dtype)
        line, weights, switches, out = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 6, 8)
        )
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        factors = [builder.add(w_at, builder.mul(w_step, constant(i)) if apart else constant(i)) for i in range(stride * taps)]
        factors = [memory.address(weights, place) for place in factors]
        if apart:
            early = [builder.sub(builder.load(builder.gep(switches, [constant(r)])), column) for r in range(stride)]
        else:
            factors = [_splat(builder, builder.load(pointer, align=vectors.size), vectors.type) for pointer in factors]

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
                total = _multiply_add(builder, factor, operand, total)
            return total

        def resample(row_at, onto, j, left=None):
            source = memory.address(line, builder.add(row_at, j))
            pixels = [memory.load(memory.address(source, constant(d))) for d in range(taps + 1)]
            target = memory.address(out, builder.add(onto, builder.mul(j, constant(stride))))
            for v, value in enumerate(_interleaved(builder, [phase(r, pixels, j) for r in range(stride)])):
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
        vectors = _Vectors(context, builder, signature.args[0].dtype)
        line, weights, late, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 6, 9))
        memory, constant = vectors.memory, vectors.constant
        lanes = constant(vectors.lanes)
        with cgutils.for_range(builder, count) as pixel:
            j = pixel.index
            source = memory.address(line, builder.add(at, j))
            pixels = [builder.load(builder.gep(source, [constant(k)]), align=vectors.size) for k in range(taps + 1)]
            pixels = [_splat(builder, value, vectors.type) for value in pixels]
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
                            builder.fmul(factor, operand) if total is None else _multiply_add(builder, factor, operand, total)
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


def _exceeds(builder, dtype, value, best):
    """The mask of values that replace the largest so far: larger ones, and NaN."""
    if isinstance(dtype, types.Integer):
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(">", value, best)
    return builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))


@intrinsic
def max_lines(typingctx, line, taps, count, least, base, places, values, to, numbers, numbers_to, width):
    """values[to + j] = the largest line[taps[2t + 1] + j] over taps t; numbers[numbers_to + j] = base + places[j] + taps[2t].

    t is the first of the ``count`` taps that holds the largest value, the last NaN where there is one; the first tap of all
    where nothing exceeds ``least``. j < width; nothing else is read or written.
    """

    def codegen(context, builder, signature, args):
        _, _, count, least, base, _, _, to, _, numbers_to, width = args
        dtype = signature.args[0].dtype
        lanes = VECTOR_BYTES // 8
        vectors, counters = _Vectors(context, builder, dtype, lanes), _Vectors(context, builder, types.int64, lanes)
        line, taps, places, values, numbers = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 5, 6, 8)
        )
        memory, constant = vectors.memory, vectors.constant

        least, base = _splat(builder, least, vectors.type), _splat(builder, base, counters.type)
        first = _splat(builder, builder.load(taps), counters.type)
        best, held = cgutils.alloca_once(builder, vectors.type), cgutils.alloca_once(builder, counters.type)

        def largest(j, mask=None):
            builder.store(least, best)
            builder.store(first, held)
            with cgutils.for_range(builder, count) as tap:
                entry = builder.gep(taps, [builder.mul(tap.index, constant(2))])
                number = _splat(builder, builder.load(entry), counters.type)
                place = memory.address(line, builder.add(j, builder.load(builder.gep(entry, [constant(1)]))))
                value = memory.load(place, mask)
                larger = _exceeds(builder, dtype, value, builder.load(best))
                builder.store(builder.select(larger, value, builder.load(best)), best)
                builder.store(builder.select(larger, number, builder.load(held)), held)
            memory.store(builder.load(best), memory.address(values, builder.add(to, j)), mask)
            number = builder.add(base, counters.memory.load(memory.address(places, j), mask))
            number = builder.add(number, builder.load(held))
            counters.memory.store(number, memory.address(numbers, builder.add(numbers_to, j)), mask)

        blocks = builder.udiv(width, constant(lanes))
        with cgutils.for_range(builder, blocks) as block:
            largest(builder.mul(block.index, constant(lanes)))
        whole = builder.mul(blocks, constant(lanes))
        with builder.if_then(builder.icmp_signed("<", whole, width)):
            largest(whole, vectors.below(builder.sub(width, whole)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(line, taps, i, line.dtype, i, places, values, i, numbers, i, i), codegen


@intrinsic
def _max_window(typingctx, source, at, row_step, rows, width, least, values, numbers):
    """values[l] = the largest of what lane l meets in a window, numbers[l] = where it stood, counted from ``at``."""

    def codegen(context, builder, signature, args):
        _, at, row_step, rows, width, least, _, _ = args
        dtype = signature.args[0].dtype
        lanes = VECTOR_BYTES // 8
        vectors, counters = _Vectors(context, builder, dtype, lanes), _Vectors(context, builder, types.int64, lanes)
        source, values, numbers = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 6, 7))
        memory, constant = vectors.memory, vectors.constant
        least = _splat(builder, least, vectors.type)
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
            number = builder.add(order, _splat(builder, number, counters.type))
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


@intrinsic
def difference_to_itself(typingctx, source, at, count):
    """The sum of x - x over ``source[at : at + count]``: 0 where all of them are finite, else NaN."""

    def codegen(context, builder, signature, args):
        _, at, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = _Memory(builder, vector, size)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        subtract, add = (builder.sub, builder.add) if isinstance(element, ir.IntType) else (builder.fsub, builder.fadd)
        start = builder.block
        loop, end = builder.append_basic_block("finite_loop"), builder.append_basic_block("finite_end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(i64, 0)), loop, end)
        builder.position_at_end(loop)
        j, total = _phi_from(builder, ir.Constant(i64, 0), start), _phi_from(builder, ir.Constant(vector, None), start)
        mask = _below(builder, lanes, builder.sub(count, j))
        values = memory.load(memory.address(data, builder.add(at, j)), mask)
        sum_ = add(total, subtract(values, values))
        following = builder.add(j, ir.Constant(i64, lanes))
        j.add_incoming(following, loop)
        total.add_incoming(sum_, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        result = _phi_from(builder, ir.Constant(vector, None), start)
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
        vectors = _Vectors(context, builder, signature.args[0].dtype)
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


def _prefetch(for_writing: bool):
    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        _ask_for(builder, builder.ptrtoint(builder.gep(data, [args[1]]), ir.IntType(64)), for_writing)
        return context.get_dummy_value()

    return codegen


@intrinsic
def prefetch_to_write(typingctx, array, index):
    """Ask for the cache line of ``array[index]``, soon to be written."""
    return types.void(array, types.int64), _prefetch(True)


@intrinsic
def prefetch_to_read(typingctx, array, index):
    """Ask for the cache line of ``array[index]``, soon to be read; into the second-level cache."""
    return types.void(array, types.int64), _prefetch(False)


def _combine(matrix: tuple[tuple[int, ...], ...], wrap: int, halved: tuple[int, ...] = ()):
    """Intrinsic: row i of target = sum over l of ``matrix[i][l]`` times row l of source, entries 0, 1 and -1.

    The rows named in ``halved`` are divided by two. Row l stands at ``at + (l % wrap)*step + (l // wrap)*carry``, row i at
    ``to + i*out_step``; whole vectors of ``count``.
    """

    def codegen(context, builder, signature, args):
        _, at, step, carry, _, to, out_step, count = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = _Memory(builder, vector, size)
        source, target = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4))

        def constant(value):
            return ir.Constant(i64, value)

        add, subtract = (builder.add, builder.sub) if isinstance(element, ir.IntType) else (builder.fadd, builder.fsub)
        start = builder.block
        loop, end = builder.append_basic_block("combine_loop"), builder.append_basic_block("combine_end")
        builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, end)
        builder.position_at_end(loop)
        j = _phi_from(builder, constant(0), start)
        values = []
        for row in range(len(matrix[0])):
            place = builder.add(builder.mul(step, constant(row % wrap)), builder.mul(carry, constant(row // wrap)))
            values.append(memory.load(memory.address(source, builder.add(builder.add(at, j), place))))
        for i, factors in enumerate(matrix):
            # a positive entry comes first in each of the matrices, so that nothing is negated
            terms = sorted(((factor, value) for factor, value in zip(factors, values) if factor), key=lambda term: -term[0])
            total = terms[0][1]
            for factor, value in terms[1:]:
                total = (add if factor > 0 else subtract)(total, value)
            if i in halved:
                total = builder.fmul(total, ir.Constant(vector, [0.5] * lanes))
            memory.store(total, memory.address(target, builder.add(builder.add(to, j), builder.mul(out_step, constant(i)))))
        following = builder.add(j, constant(lanes))
        j.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(typingctx, source, at, step, carry, target, to, out_step, count):
        i = types.int64
        return types.void(source, i, i, i, target, i, i, i), codegen

    return intrinsic(typing)


def _shifted(matrix: tuple[tuple[int, ...], ...], width: int) -> tuple[tuple[int, ...], ...]:
    """The matrix on the last of ``width`` columns."""
    return tuple((0,) * (width - len(row)) + row for row in matrix)


def _identity(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(i == j) for j in range(size)) for i in range(size))


# Winograd's short correlations (Lavin & Gray, arXiv:1509.09308) at the points 0, 1, infinity and 0, 1, -1, infinity: of the
# input (rows of products from a window's elements), of the weights (from a phase's taps; the inner ones of four rows are
# halved) and of the sums (a tile's outputs from products).
INPUT_3 = ((1, -1, 0), (0, 1, 0), (0, -1, 1))
INPUT_4 = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHT_3_OF_2 = ((1, 0), (1, 1), (0, 1))
WEIGHT_4_OF_2 = ((1, 0), (1, 1), (1, -1), (0, 1))
WEIGHT_4_OF_3 = ((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1))
OUTPUT_2_OF_3 = ((1, 1, 0), (0, 1, 1))
OUTPUT_2_OF_4 = ((1, 1, 1, 0), (0, 1, -1, -1))
OUTPUT_3_OF_4 = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))
_window_2_2 = _combine(INPUT_3, 2)
_window_3_2 = _combine(INPUT_4, 3)
_window_2_3 = _combine(INPUT_4, 2)
_window_2_21 = _combine(INPUT_3 + _shifted(_identity(2), 3), 2)
_window_3_21 = _combine(INPUT_4 + _shifted(_identity(3), 4), 3)
_window_2_32 = _combine(INPUT_4 + _shifted(INPUT_3, 4), 2)
_weights_3_of_2 = _combine(WEIGHT_3_OF_2, 2)
_weights_4_of_2 = _combine(WEIGHT_4_OF_2, 2, (1, 2))
_weights_4_of_3 = _combine(WEIGHT_4_OF_3, 3, (1, 2))
_weights_1_of_1 = _combine(((1,),), 1)
_weights_2_of_1 = _combine(((1,),) * 2, 1)
_weights_3_of_1 = _combine(((1,),) * 3, 1)
_outputs_2_of_3 = _combine(OUTPUT_2_OF_3, 3)
_outputs_2_of_4 = _combine(OUTPUT_2_OF_4, 4)
_outputs_3_of_4 = _combine(OUTPUT_3_OF_4, 4)
_outputs_2_of_2 = _combine(_identity(2), 2)
_outputs_3_of_3 = _combine(_identity(3), 3)


@njit(nogil=True)
def combine_window(size, taps, mixed, source, at, step, carry, target, to, out_step, count):
    """Rows of Winograd's products from the ``size + taps - 1`` elements of each window; whole vectors of ``count`` windows.

    Element l stands at ``at + (l % size)*step + (l // size)*carry``, row i at ``to + i*out_step``. Where ``mixed``, the rows of
    the same outputs with a tap less, which read the last elements, follow those of ``taps``.
    """
    if taps == 3:
        if mixed:
            _window_2_32(source, at, step, carry, target, to, out_step, count)
        else:
            _window_2_3(source, at, step, carry, target, to, out_step, count)
    elif size == 3:
        if mixed:
            _window_3_21(source, at, step, carry, target, to, out_step, count)
        else:
            _window_3_2(source, at, step, carry, target, to, out_step, count)
    elif mixed:
        _window_2_21(source, at, step, carry, target, to, out_step, count)
    else:
        _window_2_2(source, at, step, carry, target, to, out_step, count)


@njit(nogil=True)
def combine_weights(size, taps, source, at, step, target, to, out_step, count):
    """The weights' side of the products of a tile of ``size`` outputs, from the rows of a phase's taps, last tap first."""
    if taps == 3:
        _weights_4_of_3(source, at, step, 0, target, to, out_step, count)
    elif taps == 2:
        if size == 3:
            _weights_4_of_2(source, at, step, 0, target, to, out_step, count)
        else:
            _weights_3_of_2(source, at, step, 0, target, to, out_step, count)
    elif size == 3:
        _weights_3_of_1(source, at, step, 0, target, to, out_step, count)
    elif size == 2:
        _weights_2_of_1(source, at, step, 0, target, to, out_step, count)
    else:
        _weights_1_of_1(source, at, step, 0, target, to, out_step, count)


@njit(nogil=True)
def combine_outputs(size, products, source, at, step, target, to, out_step, count):
    """The ``size`` outputs of each tile from its rows of products; whole vectors of ``count`` tiles."""
    if products == 4:
        if size == 3:
            _outputs_3_of_4(source, at, step, 0, target, to, out_step, count)
        else:
            _outputs_2_of_4(source, at, step, 0, target, to, out_step, count)
    elif products == 3:
        if size == 3:
            _outputs_3_of_3(source, at, step, 0, target, to, out_step, count)
        else:
            _outputs_2_of_3(source, at, step, 0, target, to, out_step, count)
    else:
        _outputs_2_of_2(source, at, step, 0, target, to, out_step, count)


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


def _shuffle_tile(mr: int, nv: int, stride: int):
    """Intrinsic: ``mr`` rows of sums over k, each ``stride`` of them interleaved in registers and written to ``out`` at once.

    Row m at lane j is bias[m] + sum over p of a[a_at + p*a_k + m] * b[b_at + p*b_k + j]; ``stride`` rows make a unit, whose
    element e = j*stride + r, of row r, goes to out[units[u] + segments[0] + e] where segments[1] <= e < segments[2], and so on
    for each triple of segments. Each step asks for one of the cache lines to write, ``lines`` elements from the place of the
    first segment and then of the last one, and for the line to read at address ``f``, ``df`` bytes further each time.
    """
    per_unit = nv * stride

    def codegen(context, builder, signature, args):
        _, a_at, a_k, _, b_at, b_k, k, _, bias_at, _, _, unit_at, _, segment_at, segment_end, _, lines_count, f, df = args
        element = context.get_data_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // size
        vector, i64 = ir.VectorType(element, lanes), ir.IntType(64)
        memory = _Memory(builder, vector, size)
        data_a, data_b, data_bias, data_out, data_units, data_segments, data_lines = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 7, 9, 10, 12, 15)
        )

        def constant(value):
            return ir.Constant(i64, value)

        def number(array, index, more=0):
            return builder.load(builder.gep(array, [builder.add(index, constant(more))]))

        biases = [
            _splat(builder, builder.load(memory.address(data_bias, builder.add(bias_at, constant(m)))), vector)
            for m in range(mr)
        ]
        first_place = number(data_segments, segment_at)
        last_place = number(data_segments, builder.sub(segment_end, constant(3)))
        start = builder.block
        loop, store, whole, part, after, end = (
            builder.append_basic_block(f"shuffle_{name}") for name in ("k", "store", "whole", "part", "after", "end")
        )
        builder.branch(loop)

        builder.position_at_end(loop)
        zero = constant(0)
        index, at_a, at_b, line, place, fetched = (
            _phi_from(builder, value, start) for value in (zero, a_at, b_at, zero, first_place, f)
        )
        sums = [_phi_from(builder, biases[m], start) for m in range(mr) for _ in range(nv)]
        wanted = builder.gep(data_out, [builder.add(place, number(data_lines, line))])
        _ask_for(builder, builder.ptrtoint(wanted, i64), True)
        _ask_for(builder, fetched, False)
        a_column, b_row = memory.address(data_a, at_a), memory.address(data_b, at_b)
        b_vectors = [memory.load(memory.address(b_row, constant(v * lanes))) for v in range(nv)]
        following = []
        for m in range(mr):
            broadcast = _splat(builder, builder.load(memory.address(a_column, constant(m)), align=size), vector)
            following += [_multiply_add(builder, broadcast, b_vectors[v], sums[m * nv + v]) for v in range(nv)]
        next_index, next_line = builder.add(index, constant(1)), builder.add(line, constant(1))
        again = builder.icmp_signed(">=", next_line, lines_count)
        for phi, value in (
            (index, next_index), (at_a, builder.add(at_a, a_k)), (at_b, builder.add(at_b, b_k)),
            (line, builder.select(again, zero, next_line)), (place, builder.select(again, last_place, place)),
            (fetched, builder.add(fetched, df)), *zip(sums, following),
        ):  # fmt: skip
            phi.add_incoming(value, loop)
        _keep_rolled(builder, builder.cbranch(builder.icmp_signed("<", next_index, k), loop, store))

        builder.position_at_end(store)
        segment = _phi_from(builder, segment_at, loop)
        to, low, high = (number(data_segments, segment, i) for i in range(3))
        values = [
            _interleaved(builder, [following[(u * stride + r) * nv + v] for r in range(stride)])
            for u in range(mr // stride)
            for v in range(nv)
        ]
        places = [memory.address(data_out, builder.add(to, number(data_units, unit_at, u))) for u in range(mr // stride)]
        complete = builder.and_(
            builder.icmp_signed("==", low, zero), builder.icmp_signed("==", high, constant(per_unit * lanes))
        )
        builder.cbranch(complete, whole, part)
        for block, masked in ((whole, False), (part, True)):
            builder.position_at_end(block)
            for vector_number in range(per_unit):
                mask = None
                if masked:
                    mask = builder.and_(
                        builder.not_(_below(builder, lanes, low, vector_number * lanes)),
                        _below(builder, lanes, high, vector_number * lanes),
                    )
                v, r = divmod(vector_number, stride)
                for u in range(mr // stride):
                    memory.store(values[u * nv + v][r], memory.address(places[u], constant(vector_number * lanes)), mask)
            builder.branch(after)
        builder.position_at_end(after)
        next_segment = builder.add(segment, constant(3))
        segment.add_incoming(next_segment, after)
        builder.cbranch(builder.icmp_signed("<", next_segment, segment_end), store, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    def typing(
        typingctx, a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, first, last, lines, count, f, df
    ):  # fmt: skip
        i = types.int64
        return types.void(a, i, i, b, i, i, i, bias, i, out, units, i, segments, i, i, lines, i, i, i), codegen

    return intrinsic(typing)


#: heights of the tiles of ``shuffle`` by their stride, and the vectors along them
SHUFFLED = {
    stride: {height: WIDE if height <= 6 else 2 for height in found if height <= TALL}
    for stride, found in ((2, (12, 8, 6, 4, 2)), (3, (12, 6, 3)), (4, (12, 8, 4)))
}
if VECTOR_BYTES == 64:
    del SHUFFLED[2][6]
_shuffle_12_2_by_2 = _shuffle_tile(TALL, 2, 2)
_shuffle_8_2_by_2 = _shuffle_tile(min(8, TALL), 2, 2)
_shuffle_4_4_by_2 = _shuffle_tile(4, WIDE, 2)
_shuffle_2_4_by_2 = _shuffle_tile(2, WIDE, 2)
_shuffle_12_2_by_3 = _shuffle_tile(TALL, 2, 3)
_shuffle_6_4_by_3 = _shuffle_tile(6, WIDE, 3)
_shuffle_3_4_by_3 = _shuffle_tile(3, WIDE, 3)
_shuffle_12_2_by_4 = _shuffle_tile(12 if TALL == 12 else 4, 2, 4)
_shuffle_8_2_by_4 = _shuffle_tile(8 if TALL == 12 else 4, 2, 4)
_shuffle_4_4_by_4 = _shuffle_tile(4, WIDE, 4)


def _native_shuffle_2(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == TALL:
            _shuffle_12_2_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 8:
            _shuffle_8_2_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 4:
            _shuffle_4_4_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_2_4_by_2(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


def _native_shuffle_3(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == TALL:
            _shuffle_12_2_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 6:
            _shuffle_6_4_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_3_4_by_3(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


def _native_shuffle_4(
    m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts, lines, count, f, df,
    f_step
):  # fmt: skip
    a, b, bias, out = carray(a, 1), carray(b, 1), carray(bias, 1), carray(out, 1)
    units, segments, starts, lines = carray(units, 1), carray(segments, 1), carray(starts, 1), carray(lines, 1)
    for i in range(tiles):
        s, e = starts[i], starts[i + 1]
        if m == 12:
            _shuffle_12_2_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        elif m == 8:
            _shuffle_8_2_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        else:
            _shuffle_4_4_by_4(
                a, a_at, a_k, b, b_at, b_k, k, bias, bias_at, out, units, unit_at, segments, s, e, lines, count, f, df
            )
        b_at += b_step
        f += f_step


@cache
def native_shuffle(dtype: str, stride: int) -> Any:
    """Tiles side by side of rows that are interleaved ``stride`` by ``stride``, as machine code for ``call_shuffle``."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    signature = types.void(i, i, p, i, i, p, i, i, i, i, p, i, p, t, i, t, t, t, i, i, i, i)
    return native(signature, {2: _native_shuffle_2, 3: _native_shuffle_3, 4: _native_shuffle_4}[stride])


@intrinsic
def call_shuffle(
    typingctx, address, m, tiles, a, a_at, a_k, b, b_at, b_k, b_step, k, bias, bias_at, out, units, unit_at, segments, starts,
    lines, count, f, df, f_step
):  # fmt: skip
    """``native_shuffle``'s machine code at an address: ``tiles`` of ``m`` rows, ``b_step`` elements of b from one to the next.

    The lines to read begin ``f_step`` bytes further for each tile.

    ``starts``: where each tile's segments begin, and where the last one's end; the rest as in ``_shuffle_tile``.
    """

    i = types.int64
    rest = (i, i, a, i, i, b, i, i, i, i, bias, i, out, units, i, segments, starts, lines, i, i, i, i)
    return types.void(i, *rest), _call_address
