"""Calls of compiled tasks by their address, counters and pointers shared by threads, and requests for cache lines."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.simd.vectors import ask_for, call_address


@intrinsic
def call_task(typingctx, address, task, tables, x, out):
    """Call machine code of type ``void(int64 task, int64* tables, T* x, T* out)`` at an address."""

    return types.void(types.int64, types.int64, tables, x, out), call_address


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


def _prefetch(for_writing: bool):
    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        ask_for(builder, builder.ptrtoint(builder.gep(data, [args[1]]), ir.IntType(64)), for_writing)
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
