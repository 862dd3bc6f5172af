"""Objects of CPython and NumPy as machine code of ``jit.python_function`` reads them: arrays' memory, shapes, and integers.

Places in NumPy's object are those of its C interface (``PyArrayObject_fields``, ``PyArray_Descr``), which compiled modules rely
on; those of CPython's are read by its functions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, types

from tconv_bench.jit import kernel, python_function
from tconv_bench.simd import as_pointer

TYPE = object.__basicsize__ - 8  # bytes from where an object begins to the address of its type
DATA = object.__basicsize__  # to the address of an array's elements
AXES, SHAPE, DTYPE, FLAGS = DATA + 8, DATA + 16, DATA + 40, DATA + 48
ORDER, NUMBER = DATA + 10, DATA + 12  # of a dtype: a letter for the bytes' order, the dtype's number
PLAIN = 0x0001 | 0x0100 | 0x0400  # NumPy's flags C_CONTIGUOUS, ALIGNED, WRITEABLE
NATIVE = (ord("="), ord("|"))
MOST_AXES, MOST_ENTRIES = 8, 3
MOST_SIZES = 6
OVERFLOW = 1016  # an integer's, which is 1, -1 or 0; three arrays take at most 249 bytes before it, six sizes 510
LONG = 255  # a byte after which a value's eight follow; smaller values are a byte themselves

as_integer = types.ExternalFunction("PyLong_FromSsize_t", types.intp(types.intp))
_value = types.ExternalFunction("PyLong_AsLongLongAndOverflow", types.longlong(types.intp, types.intp))
_entries = types.ExternalFunction("PyTuple_Size", types.intp(types.intp))
_entry = types.ExternalFunction("PyTuple_GetItem", types.intp(types.intp, types.intp))
_bytes = types.ExternalFunction("PyBytes_FromStringAndSize", types.intp(types.intp, types.intp))


@kernel
def word_at(address):
    """The 64 bits at an address."""
    return carray(as_pointer(address), 1, np.int64)[0]


@kernel
def elements(array):
    """The address of an array's elements, by that of its object."""
    return word_at(array + DATA)


@kernel
def _plain_kind(array):
    """The number of an array's dtype, and how many axes it has: -1 where kernels can't take its memory."""
    axes, flags, dtype = word_at(array + AXES) & 0xFFFFFFFF, word_at(array + FLAGS), word_at(array + DTYPE)
    order, number = carray(as_pointer(dtype + ORDER), 1, np.uint8)[0], carray(as_pointer(dtype + NUMBER), 1, np.int32)[0]
    return np.int64(number), axes if flags & PLAIN == PLAIN and order in NATIVE else -1


@kernel
def has_form(array, kind, form):
    """Whether an object is an array of NumPy's own type, ``kind``, that kernels can take, of a form: see ``form_of``."""
    if word_at(array + TYPE) != kind:
        return False
    number, axes = _plain_kind(array)
    if number != form[0] or axes != form[1]:
        return False
    shape = word_at(array + SHAPE)
    same = True
    for axis in range(axes):
        same &= word_at(shape + 8 * axis) == form[2 + axis]
    return same


def form_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[int]:
    """A dtype's number, how many axes there are, and their sizes."""
    return [dtype.num, len(shape), *shape]


@kernel
def _write(value, text, at):
    """Write a value so that what follows it can be told from it; where that begins."""
    if 0 <= value < LONG:
        text[at] = value
        return at + 1
    text[at] = LONG
    for i in range(8):
        text[at + 1 + i] = (value >> (8 * i)) & 0xFF
    return at + 9


@kernel
def _write_array(array, text, at):
    """Write an array's dtype and shape; 0 where kernels can't take its memory."""
    number, axes = _plain_kind(array)
    if not 0 <= axes <= MOST_AXES:
        return 0
    at = _write(number, text, at)
    at = _write(axes, text, at)
    shape = word_at(array + SHAPE)
    for axis in range(axes):
        at = _write(word_at(shape + 8 * axis), text, at)
    return at


@kernel
def _write_integer(value, integer, text, at):
    """Write an integer; 0 for anything else, and for one of more than 64 bits."""
    if word_at(value + TYPE) != integer:
        return 0
    number = _value(value, text.ctypes.data + OVERFLOW)
    return _write(number, text, at) if text[OVERFLOW] == 0 else 0


@kernel
def _write_size(size, integer, group, text, at):
    """Write an integer or a tuple of integers and of tuples of them; 0 for anything else."""
    if word_at(size + TYPE) != group:
        return _write_integer(size, integer, text, _write(MOST_ENTRIES + 1, text, at))
    if _entries(size) > MOST_ENTRIES:
        return 0
    at = _write(_entries(size), text, at)
    for i in range(_entries(size)):
        entry = _entry(size, i)
        if word_at(entry + TYPE) != group:
            at = _write_integer(entry, integer, text, _write(MOST_ENTRIES + 1, text, at))
        elif _entries(entry) > MOST_ENTRIES:
            return 0
        else:
            at = _write(_entries(entry), text, at)
            for j in range(_entries(entry)):
                at = _write_integer(_entry(entry, j), integer, text, at)
                if at == 0:
                    return 0
        if at == 0:
            return 0
    return at


def _native_describe(_, objects, count):
    """Bytes, or the integer 0, of ``(ndarray, int, tuple, None, three arrays, *sizes)``; see ``describe``."""
    objects = carray(objects, count)
    text = np.empty(OVERFLOW + 8, np.uint8)
    at = 0
    for i in range(4, 7):
        is_array = word_at(objects[i] + TYPE) == objects[0]
        if not (is_array or objects[i] == objects[3]):
            return as_integer(0)
        at = _write(np.int64(is_array), text, at)
        if is_array:
            at = _write_array(objects[i], text, at)
        if at == 0:
            return as_integer(0)
    for i in range(7, count):
        at = _write_size(objects[i], objects[1], objects[2], text, at)
        if at == 0:
            return as_integer(0)
    described = _bytes(text.ctypes.data, at)
    text[0] = 0  # memory lives until its array's last use, and the bytes above are copied from it
    return described


@cache
def describe() -> Any:
    """``describe()(np.ndarray, int, tuple, None, three arrays, *sizes)``: bytes that tell a call's arguments apart, or 0.

    Of each array its dtype and shape, of sizes their values; at most 6 of them. Each array may be None. It is 0 unless the
    arrays are plain (of NumPy's own type, C-contiguous, aligned, writable, in the machine's byte order), and the sizes integers
    or tuples of at most 3 integers or tuples of them. True and 1.0 equal 1 and are neither.
    """
    return python_function(_native_describe)
