"""What CUDA kernels need beyond Python: the only place that emits LLVM IR for the device.

Each function is defined twice: in plain Python, which is what the simulator runs and what it means, and as instructions, which
is what kernels are compiled with (``tconv_bench.jit_cuda`` puts the one or the other into a kernel).

Numba computes with integers of 64 bits whatever their type, and a 64-bit division is some 70 instructions on a GPU; ``divide``
is one of 32 bits. Its shared arrays start at a multiple of their element's size; ``shared`` aligns them for 128-bit loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VECTOR_BYTES = 16
SHARED_SPACE = 3


@dataclass(frozen=True, eq=False)
class Instruction:
    """A function of kernels: its definition in Python, its types, and what it is compiled to."""

    definition: Callable[..., Any]
    typing: Callable[..., Any]
    emit: Callable[..., Any]

    @cached_property
    def compiled(self) -> Any:
        """The same for Numba."""
        signature, emit = self.typing, self.emit
        typings: dict[int, Callable[..., Any]] = {  # Numba reads the number of arguments off the typing function
            1: lambda context, a: (signature(a), emit),
            2: lambda context, a, b: (signature(a, b), emit),
            3: lambda context, a, b, c: (signature(a, b, c), emit),
            11: lambda context, a, b, c, d, e, f, g, h, i, j, k: (signature(a, b, c, d, e, f, g, h, i, j, k), emit),
        }
        return intrinsic(prefer_literal=True)(typings[self.definition.__code__.co_argcount])


def instruction(typing: Callable[..., Any], emit: Callable[..., Any]) -> Callable[[Callable[..., Any]], Instruction]:
    """Decorator of a definition: ``typing`` gives the signature for its arguments' types, ``emit`` the code."""
    return lambda definition: Instruction(definition, typing, emit)


def _vectors(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Iterator[tuple[Any, int]]:
    """Pointers to the 128-bit vectors that hold four elements from ``at`` on, and the elements in each."""
    element = context.get_value_type(kind.dtype)
    lanes = min(4, VECTOR_BYTES * 8 // kind.dtype.bitwidth)
    data = context.make_array(kind)(context, builder, array).data
    for first in range(0, 4, lanes):
        place = builder.gep(data, [builder.add(at, ir.Constant(at.type, first))])
        yield builder.bitcast(place, ir.VectorType(element, lanes).as_pointer()), lanes


def _emit_load4(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    values = []
    for pointer, lanes in _vectors(context, builder, signature.args[0], *args):
        vector = builder.load(pointer)
        vector.align = VECTOR_BYTES
        values += [builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)) for lane in range(lanes)]
    return context.make_tuple(builder, signature.return_type, values)


@instruction(lambda array, at: types.UniTuple(array.dtype, 4)(array, types.uint64), _emit_load4)
def load4(array, at):
    """Four elements from a place on that is a multiple of four, of an array that starts at a multiple of 16 bytes."""
    return array[at], array[at + 1], array[at + 2], array[at + 3]


def _emit_store4(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array, at, values = args
    values = cgutils.unpack_tuple(builder, values)
    for pointer, lanes in _vectors(context, builder, signature.args[0], array, at):
        vector = ir.Constant(pointer.type.pointee, ir.Undefined)
        for lane in range(lanes):
            vector = builder.insert_element(vector, values.pop(0), ir.Constant(ir.IntType(32), lane))
        builder.store(vector, pointer, align=VECTOR_BYTES)
    return context.get_dummy_value()


@instruction(lambda array, at, values: types.none(array, types.uint64, types.UniTuple(array.dtype, 4)), _emit_store4)
def store4(array, at, values):
    """The opposite of ``load4``."""
    for lane in range(4):
        array[at + lane] = values[lane]


def _emit_divide(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    number, by = (builder.trunc(value, ir.IntType(32)) for value in args)
    results = [builder.zext(value, ir.IntType(64)) for value in (builder.udiv(number, by), builder.urem(number, by))]
    return context.make_tuple(builder, signature.return_type, results)


@instruction(lambda number, by: types.UniTuple(types.int64, 2)(types.int64, types.int64), _emit_divide)
def divide(number, by):
    """Quotient and remainder of two integers from 0 to 2^32 - 1."""
    return divmod(int(number), int(by))


def _emit_shared(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, size = signature.return_type, signature.args[0].literal_value
    content = ir.ArrayType(context.get_data_type(kind.dtype), size)
    memory = cgutils.add_global_variable(builder.module, content, f"tconv_shared_{size}", SHARED_SPACE)
    memory.align, memory.linkage, memory.initializer = VECTOR_BYTES, "internal", ir.Constant(content, ir.Undefined)
    pointer = builder.bitcast(builder.addrspacecast(memory, content.as_pointer()), content.element.as_pointer())
    array = context.make_array(kind)(context, builder)
    bytes_each, length = (ir.Constant(ir.IntType(64), value) for value in (kind.dtype.bitwidth // 8, size))
    context.populate_array(
        array,
        data=pointer,
        shape=cgutils.pack_array(builder, [length]),
        strides=cgutils.pack_array(builder, [bytes_each]),
        itemsize=bytes_each,
        meminfo=None,
    )
    return array._getvalue()


def _emit_add_atomically(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, (array, at, value) = signature.args[0], args
    place = builder.gep(context.make_array(kind)(context, builder, array).data, [at])
    place = builder.addrspacecast(builder.bitcast(place, ir.IntType(8).as_pointer()), ir.PointerType(ir.IntType(8), 1))
    bits = kind.dtype.bitwidth
    kinds = ir.FunctionType(ir.VoidType(), [place.type, value.type])
    builder.asm(kinds, f"red.global.add.f{bits} [$0], $1;", f"l,{'f' if bits == 32 else 'd'}", [place, value], True)
    return context.get_dummy_value()


@instruction(lambda array, at, value: types.none(array, types.uint64, array.dtype), _emit_add_atomically)
def add_atomically(array, at, value):
    """Add to an element that other threads add to; Numba's own is invalid for compute capability 10.0 with CUDA 12."""
    with _first:
        array[at] += value


_first = Lock()


def _type_of_shared(size: Any, dtype: Any) -> Any:
    return types.Array(dtype.dtype, 1, "C")(size, dtype)


@instruction(_type_of_shared, _emit_shared)
def shared(size, dtype):
    """An array in the block's shared memory that starts at a multiple of 16 bytes; once in a kernel."""
    from numba.cuda.simulator.kernel import _get_kernel_context

    with _first:  # the simulator's threads would each make an array of their own
        return _get_kernel_context().shared.array(size, dtype)


def _emit_fma(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    value = args[0].type
    name = {"float": "llvm.fma.f32", "double": "llvm.fma.f64"}[str(value)]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(value, [value] * 3), name)
    return builder.call(function, args)


@instruction(lambda a, b, c: c(c, c, c), _emit_fma)
def fma(a, b, c):
    """``a*b + c``, rounded once on the device and twice in the simulator."""
    return a * b + c


def _emit_afresh(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kinds = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
    return builder.asm(kinds, "mov.b64 $0, $1;", "=l,l", args, True)


@instruction(lambda value: types.int64(types.int64), _emit_afresh)
def afresh(value):
    """The same integer, from which the compiler computes anew what follows, instead of keeping that in registers until then."""
    return value


_READS = {16: ("b16", "=h", ir.IntType(16)), 32: ("f32", "=f", ir.FloatType()), 64: ("f64", "=d", ir.DoubleType())}


def _emit_read_if(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, (array, at, allowed) = signature.args[0], args
    word, result, value = _READS[kind.dtype.bitwidth]
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(data, [builder.zext(builder.trunc(at, ir.IntType(32)), ir.IntType(64))])
    place = builder.addrspacecast(builder.bitcast(place, ir.IntType(8).as_pointer()), ir.PointerType(ir.IntType(8), 1))
    zero = {16: "mov.b16 $0, 0", 32: "mov.f32 $0, 0f00000000", 64: "mov.f64 $0, 0d0000000000000000"}[kind.dtype.bitwidth]
    code = f"{{ .reg .pred p; setp.ne.s32 p, $2, 0; {zero}; @p ld.global.nc.{word} $0, [$1]; }}"
    kinds = ir.FunctionType(value, [place.type, ir.IntType(32)])
    read = builder.asm(kinds, code, f"{result},l,r", [place, builder.zext(allowed, ir.IntType(32))], False)
    return builder.bitcast(read, context.get_value_type(kind.dtype)) if kind.dtype.bitwidth != 16 else read


@instruction(lambda array, at, allowed: array.dtype(array, types.uint64, types.boolean), _emit_read_if)
def read_if(array, at, allowed):
    """An element of an array that nobody writes meanwhile, its place below 2^32; 0, and nothing is read, unless ``allowed``."""
    return array[at] if allowed else array.dtype.type(0)


def _emit_products(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    memory, a_at, b_at, sums = args[:4]
    kind = signature.args[0]
    bk, bm, bn, a_strip, b_strip, tm, tn = (item.literal_value for item in signature.args[4:])
    number, element = ir.IntType(32), context.get_value_type(kind.dtype)
    data = context.make_array(kind)(context, builder, memory).data
    held = context.make_array(signature.args[3])(context, builder, sums).data
    lanes = min(4, VECTOR_BYTES * 8 // kind.dtype.bitwidth)

    def strips(at: Any, step: int, strip: int, count: int) -> list[Any]:
        values = []
        start = builder.gep(data, [at])
        for first in range(0, count, lanes):
            offset = step + first // 4 * strip + first % 4
            place = builder.gep(start, [ir.Constant(number, offset)])
            vector = builder.load(builder.bitcast(place, ir.VectorType(element, lanes).as_pointer()))
            vector.align = VECTOR_BYTES
            values += [builder.extract_element(vector, ir.Constant(number, lane)) for lane in range(lanes)]
        return values

    places = [builder.gep(held, [ir.Constant(number, i)]) for i in range(tm * tn)]
    totals = [builder.load(place) for place in places]
    name = {32: "llvm.fma.f32", 64: "llvm.fma.f64"}[kind.dtype.bitwidth]
    multiply = cgutils.get_or_insert_function(builder.module, ir.FunctionType(element, [element] * 3), name)
    for k in range(bk):
        a, b = strips(a_at, k * bm, a_strip, tm), strips(b_at, k * bn, b_strip, tn)
        for i in range(tm):
            for j in range(tn) if i % 2 == 0 else reversed(range(tn)):  # a row's end is the next one's start
                totals[i * tn + j] = builder.call(multiply, [a[i], b[j], totals[i * tn + j]])
    for place, total in zip(places, totals):
        builder.store(total, place)
    return context.get_dummy_value()


def _type_of_products(memory: Any, a_at: Any, b_at: Any, sums: Any, *shape: Any) -> Any:
    return types.none(memory, types.uint64, types.uint64, sums, *shape)


@instruction(_type_of_products, _emit_products)
def products(memory, a_at, b_at, sums, bk, bm, bn, a_strip, b_strip, tm, tn):
    """Add to ``sums`` (tm, tn) the products of a thread's rows of one panel and columns of another; compiled without a loop.

    Args:
        memory: shared; holds panels (bk, bm) and (bk, bn).
        a_at, b_at: where the thread's first row and first column lie, multiples of four.
        sums: the thread's own array.
        bk, bm, bn: sizes of the panels, constants as all that follow.
        a_strip, b_strip: the thread's rows are strips of four, so far apart, and so are its columns.
        tm, tn: the thread's rows and columns.
    """
    for k in range(bk):
        for i in range(tm):
            a = memory[a_at + k * bm + i // 4 * a_strip + i % 4]
            for j in range(tn):
                sums[i * tn + j] += a * memory[b_at + k * bn + j // 4 * b_strip + j % 4]
