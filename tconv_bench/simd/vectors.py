"""How wide the processor's vectors are, and the pieces of LLVM IR that every intrinsic of this package is built from."""

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target

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
LINE_BYTES = 64  # of a cache line


def splat(builder, scalar, vector):
    lane0 = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(lane0, ir.Constant(vector, ir.Undefined), lanes)


def call_llvm(builder, name, result, args):
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def type_suffix(vector):
    scalar = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    return f"v{vector.count}{scalar}"


def multiply_add(builder, a, b, c):
    if isinstance(a.type.element, ir.IntType):
        return builder.add(builder.mul(a, b), c)
    # fmuladd, not fma: on a processor without fused multiply-add, llvm.fma calls libm for every lane.
    return call_llvm(builder, f"llvm.fmuladd.{type_suffix(a.type)}", a.type, [a, b, c])


def first_lanes(builder, lanes, count, first=0):
    """The mask of lanes whose number, counted from ``first``, is below an int64 ``count``; half as dear as in 64 bits."""
    numbers = ir.VectorType(ir.IntType(32), lanes)
    bound = splat(builder, builder.trunc(count, ir.IntType(32)), numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, [first + lane for lane in range(lanes)]), bound)


class Memory:
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
        return call_llvm(self.builder, f"llvm.masked.load.{type_suffix(self.vector)}.p0", self.vector, args)

    def store(self, value, pointer, mask=None):
        pointer = self._as_vector(pointer)
        if mask is None:
            self.builder.store(value, pointer, align=self.align)
            return
        args = [value, pointer, ir.Constant(ir.IntType(32), self.align), mask]
        call_llvm(self.builder, f"llvm.masked.store.{type_suffix(self.vector)}.p0", ir.VoidType(), args)


class Vectors:
    """Vectors of a dtype, as wide as the processor's unless ``lanes`` says otherwise, with 64-bit numbers for their lanes."""

    def __init__(self, context, builder, dtype, lanes=None):
        element = context.get_data_type(dtype)
        self.builder, self.size = builder, context.get_abi_sizeof(element)
        self.lanes = lanes or VECTOR_BYTES // self.size
        self.type = ir.VectorType(element, self.lanes)
        self.memory = Memory(builder, self.type, self.size)

    def constant(self, value):
        return ir.Constant(ir.IntType(64), value)

    def below(self, left, vector=0):
        """The mask of the lanes of the ``vector``-th vector of a row that are among its first ``left`` elements."""
        wide = ir.VectorType(ir.IntType(64), self.lanes)
        numbers = ir.Constant(wide, [vector * self.lanes + lane for lane in range(self.lanes)])
        return self.builder.icmp_signed("<", numbers, splat(self.builder, left, wide))


class Conversion:
    """Loads and stores of arrays of two dtypes: the same one, or an integer and the float that its values are computed in.

    A float is stored as the nearest integer, halves upwards, kept within the dtype. In float32, which only 8-bit integers are
    computed in, what lies less than 2**-12 below a half counts as one: sums of exact halves are not exact there.
    """

    def __init__(self, context, builder, source, out):
        self.builder = builder
        self.source, self.out = source, out
        self.computed = source if isinstance(source, types.Float) else out
        lanes = VECTOR_BYTES // context.get_abi_sizeof(context.get_data_type(self.computed))
        self.vectors = Vectors(context, builder, self.computed, lanes)
        self._loaded, self._stored = (Vectors(context, builder, dtype, lanes) for dtype in (source, out))

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
        suffix = type_suffix(kind)

        def constant(number):
            return ir.Constant(kind, [float(number)] * kind.count)

        low = call_llvm(builder, f"llvm.floor.{suffix}", kind, [value])
        half = constant(0.5 - 2.0**-12 if self.computed == types.float32 else 0.5)
        up = builder.fcmp_ordered(">=", builder.fsub(value, low), half)
        value = builder.fadd(low, builder.select(up, constant(1), constant(0)))
        for number, beyond in ((self.out.minval, "<"), (self.out.maxval, ">")):
            value = builder.select(builder.fcmp_ordered(beyond, value, constant(number)), constant(number), value)
        return (builder.fptosi if self.out.signed else builder.fptoui)(value, self._stored.type)


def phi_from(builder, value, block):
    phi = builder.phi(value.type)
    phi.add_incoming(value, block)
    return phi


def ask_for(builder, address, for_writing: bool):
    """Ask for a cache line: to write, into all levels, or to read, into all but the first."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    flags = [ir.Constant(ir.IntType(32), value) for value in ((1, 3, 1) if for_writing else (0, 2, 1))]
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *flags])


def keep_rolled(builder, back_edge):
    """Tell LLVM not to unroll a loop: two steps at once, its scheduler mixes their loads and runs out of registers."""
    disable = builder.module.add_metadata([ir.MetaDataString(builder.module, "llvm.loop.unroll.disable")])
    # a loop's identity is a node whose first operand is itself
    identity = builder.module.add_metadata([disable, ir.Constant(ir.IntType(64), len(builder.module.metadata))])
    identity.operands = (identity, disable)
    back_edge.set_metadata("llvm.loop", identity)


def call_address(context, builder, signature, args):
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
