"""Rows of an output from the sums of its phases: interleaved in registers and written, many of them in one call."""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from tconv_bench.jit import native
from tconv_bench.simd.interleaving import INTERLEAVED, interleaved
from tconv_bench.simd.vectors import Vectors, call_address, first_lanes

RUN_FIELDS = 5  # of a run: row phase, place in a row of sums, place in the output, elements, elements left out before them


def _rows(stride: int):
    """Intrinsic: ``_native_rows`` of a stride whose phases are interleaved in registers.

    A run's last vectors are written one by one, those beyond its end not at all: rows of a few elements are what is written
    where images are narrow, and a call for each of them takes longer than its sums.
    """

    def codegen(context, builder, signature, args):
        _, step, phase_step, channels, _, first, last, _, out_at, out_step = args
        vectors = Vectors(context, builder, signature.args[0].dtype)
        memory, lanes, constant = vectors.memory, vectors.lanes, vectors.constant
        sums, runs, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4, 7))
        block = constant(stride * lanes)

        def woven(at):
            rows = [builder.add(at, builder.mul(phase_step, constant(phase))) for phase in range(stride)]
            return interleaved(builder, [memory.load(memory.address(sums, row)) for row in rows])

        with cgutils.for_range(builder, channels) as channel:
            sums_at = builder.mul(channel.index, step)
            onto = builder.add(out_at, builder.mul(channel.index, out_step))
            with cgutils.for_range(builder, builder.sub(last, first)) as number:
                entry = builder.mul(builder.add(first, number.index), constant(RUN_FIELDS))
                at, to, count = (builder.load(builder.gep(runs, [builder.add(entry, constant(field))])) for field in (1, 2, 3))
                at, to = builder.add(sums_at, at), builder.add(onto, to)
                blocks = builder.udiv(count, block)
                with cgutils.for_range(builder, blocks) as whole:
                    place = builder.add(to, builder.mul(whole.index, block))
                    for v, value in enumerate(woven(builder.add(at, builder.mul(whole.index, constant(lanes))))):
                        memory.store(value, memory.address(out, builder.add(place, constant(v * lanes))))
                done = builder.mul(blocks, block)
                left = builder.sub(count, done)
                with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                    place = builder.add(to, done)
                    for v, value in enumerate(woven(builder.add(at, builder.mul(blocks, constant(lanes))))):
                        with builder.if_then(builder.icmp_signed(">", left, constant(v * lanes))):
                            mask = first_lanes(builder, lanes, left, v * lanes)
                            memory.store(value, memory.address(out, builder.add(place, constant(v * lanes))), mask)
        return context.get_dummy_value()

    def typing(typingctx, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
        i = types.int64
        return types.void(sums, i, i, i, runs, i, i, out, i, i), codegen

    return intrinsic(typing)


# Module-level names: Numba's cache misses on an intrinsic that a closure holds.
_rows_1 = _rows(1)
_rows_2 = _rows(2)
_rows_3 = _rows(3)
_rows_4 = _rows(4)
_rows_5 = _rows(5)
_rows_6 = _rows(6)
_rows_7 = _rows(7)
_rows_8 = _rows(8)


def _native_rows_1(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_1(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_2(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_2(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_3(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_3(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_4(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_4(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_5(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_5(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_6(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_6(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_7(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_7(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows_8(_, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    _rows_8(carray(sums, 1), step, phase_step, channels, carray(runs, 1), first, last, carray(out, 1), out_at, out_step)


def _native_rows(stride, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    """Runs ``first ... last - 1`` of each channel's row: out[out_at + m*out_step + to + stride*j + r] = sums[at + ... + j].

    The sums of phase r of channel m begin at ``r*phase_step + m*step``. ``runs``: ``RUN_FIELDS`` numbers each. Whole vectors of
    sums are read, up to one beyond the last.
    """
    sums, runs, out = carray(sums, 1), carray(runs, 1), carray(out, 1)
    for m in range(channels):
        for run in range(first, last):
            at, to, count = runs[run * RUN_FIELDS + 1], runs[run * RUN_FIELDS + 2], runs[run * RUN_FIELDS + 3]
            at += m * step
            to += out_at + m * out_step
            for phase in range(min(stride, count)):
                for j in range((count - phase + stride - 1) // stride):
                    out[to + stride * j + phase] = sums[at + phase * phase_step + j]


_NATIVE = dict(zip(INTERLEAVED, (
    _native_rows_1, _native_rows_2, _native_rows_3, _native_rows_4, _native_rows_5, _native_rows_6, _native_rows_7,
    _native_rows_8,
)))  # fmt: skip


@cache
def native_rows(dtype: str, stride: int) -> Any:
    """Rows of a panel of channels, their phases interleaved, as machine code for ``call_rows``."""
    i, p, t = types.int64, types.CPointer(from_dtype(np.dtype(dtype))), types.CPointer(types.int64)
    return native(types.void(i, p, i, i, i, t, i, i, p, i, i), _NATIVE.get(stride, _native_rows))


@intrinsic
def call_rows(typingctx, address, stride, sums, step, phase_step, channels, runs, first, last, out, out_at, out_step):
    """``native_rows``'s machine code at an address: see ``_native_rows``."""
    i = types.int64
    return types.void(i, i, sums, i, i, i, runs, i, i, out, i, i), call_address
