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
            2: lambda context, a, b: (signature(a, b), emit),
            3: lambda context, a, b, c: (signature(a, b, c), emit),
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
