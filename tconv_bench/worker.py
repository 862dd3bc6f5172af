"""One engine in a process of its own, told over its standard input what to make ready and when to run it.

Started as a script, so that it can serve another commit's package too: it takes from that only what every commit has, the
variants' contract and the public functions. Each engine so has its own threads, allocator and libraries, as its users have.

A request is one line of JSON with an "op", the answer one line with the result, or with "error" or "unsupported" and a
sentence. After each timed sample the process waits until its threads have gone to sleep: threads of OpenMP, of BLAS and of
ONNX Runtime spin on after a call, and would take a core from the entrant that is timed next.
"""

from __future__ import annotations

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]  # no module of ours shadows the library's

import gc  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from contextlib import AbstractContextManager, nullcontext  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from time import perf_counter, process_time, sleep  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

QUIET_STEP = 0.0005  # seconds between two looks at the other threads
QUIET_LOOKS = 3  # looks in a row at which all of them must sleep
QUIET_LIMIT = 2.0  # seconds after which the process is taken as it is
WARM_SECONDS, WARM_LIMIT = 0.005, 0.05  # of untimed calls before a hot sample
WARM_NEAR = 1.15  # times the fastest call: as fast as it can be
WARM_SELF = 0.1  # seconds; a call that takes longer is not called once more for warmth
TASKS = Path("/proc/self/task")
PAGE = 4096


class Unsupported(Exception):
    """The entrant can't take the problem; the sentence says why."""


class Ready:
    """An entrant made ready on a problem: ``call()`` computes once, ``result(value)`` is what it gave as an array."""

    def __init__(self, call: Callable[[], Any], result: Callable[[Any], Any], **facts: Any):
        self.call, self.result, self.facts = call, result, facts
        self.warm = Warmed(call)
        self.bind: Callable[[], Callable[[], Any]] | None = None
        self.session: Callable[[], AbstractContextManager[Any]] = nullcontext  # what a user enters once around many calls


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array at the start of a page: the same place within its page for every entrant."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + size].view(dtype).reshape(shape)


def load(folder: Path, name: str) -> Any:
    """One of the problem's arrays in memory of this process."""
    stored = np.load(folder / f"{name}.npy", mmap_mode="r")
    array = aligned(stored.shape, stored.dtype)
    array[...] = stored
    return array


def wait_until_quiet() -> None:
    """Return when this process' other threads have stopped spinning."""
    end = perf_counter() + QUIET_LIMIT
    looks = 0
    while looks < QUIET_LOOKS and perf_counter() < end:
        sleep(QUIET_STEP)
        looks = 0 if _is_busy() else looks + 1


def _is_busy() -> bool:
    """Whether another thread runs. The process' CPU time would tell late: it counts other threads once per clock tick."""
    if not TASKS.is_dir():
        used = process_time()
        sleep(0.01)
        return process_time() - used > 0.001
    own = str(threading.get_native_id())
    return any(task.name != own and _state(task) == "R" for task in TASKS.iterdir())


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it ended meanwhile
        return ""


class Flusher:
    """Empties the caches: every core writes through an array larger than the last level."""

    def __init__(self, bytes_per_core: int):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
        self.pools = [ThreadPoolExecutor(1, initializer=_pin, initargs=(core,)) for core in cores]
        self.buffers = [np.zeros(bytes_per_core // 8, np.int64) for _ in cores]

    def __call__(self) -> None:
        """Write through every core's array."""
        running = [pool.submit(np.add, b, 1, out=b) for pool, b in zip(self.pools, self.buffers)]
        for job in running:
            job.result()


def _pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


class Warmed:
    """Calls until the caches are hot and every core has come to speed.

    A thread that slept comes late: a kernel on two virtual cores ran on one of them, at 770 us for 405, for up to 13 ms of
    calls. So the untimed calls end when one is as fast as the fastest seen, or nearly, at the latest after WARM_LIMIT.
    """

    def __init__(self, call: Callable[[], Any]):
        self.call, self.fastest = call, float("inf")

    def __call__(self) -> None:
        """Call for at least WARM_SECONDS; once, where a call takes longer; not at all, where it warms itself."""
        start = now = perf_counter()
        while self.fastest < WARM_SELF or self.fastest == float("inf"):
            self.call()
            before, now = now, perf_counter()
            self.fastest = min(self.fastest, now - before)
            near = now - before <= WARM_NEAR * self.fastest
            if (near and now - start >= WARM_SECONDS) or now - start >= WARM_LIMIT:
                return


class Arrays:
    """A problem's input, weight, bias and planned output: the entrants of a process take turns on the same memory."""

    def __init__(self, problem: Any, folder: Path):
        self.problem = problem
        self.x, self.weight, self.bias = (load(folder, name) for name in ("x", "weight", "bias"))
        self._out: Any = None

    @property
    def out(self) -> Any:
        """The output, poisoned anew whenever it is asked for."""
        if self._out is None:
            self._out = aligned(self.problem.out_shape, self.problem.dtype)
        self._out.fill(np.nan if self._out.dtype.kind == "f" else np.iinfo(self._out.dtype).max)
        return self._out


def own_entrant(name: str, mode: str, problem: Any, arrays: Arrays) -> Ready:
    """A variant of the package, or "auto"."""
    import tconv_bench
    from tconv_bench import conv, measure, registry

    x, weight, bias = arrays.x, arrays.weight, arrays.bias
    variant = registry.get(conv.choose(problem) if name == "auto" else name)
    answer = variant.supports(problem)
    if answer is not True:
        raise Unsupported(answer)
    measure.compile_for(problem, variant)
    sizes = {key: getattr(problem, key) for key in ("stride", "padding", "output_padding", "groups", "dilation")}
    if mode == "one-shot":
        function = getattr(tconv_bench, f"conv_transpose{problem.ndim}d")
        # as a peer's call, which a lambda would not be by 0.1 us
        call = partial(function, x, weight, bias, *sizes.values(), method=name)
        return Ready(call, lambda value: value, output="fresh")
    make = partial(tconv_bench.plan, weight, problem.x_shape, bias=bias, **sizes, method=name)
    make()  # what a plan compiles beside the variant is no part of its preparation
    variant.forget()
    start = perf_counter()
    made = make()
    seconds = perf_counter() - start
    kept, call = variant.prepared_bytes(problem), partial(made, x, arrays.out)
    return Ready(call, lambda value: value, output="given", prepare_seconds=seconds, prepared_bytes=kept)


def peer_entrant(name: str, mode: str, problem: Any, arrays: Arrays, threads: int) -> Ready:
    """Another engine behind the contract of ``tconv_bench.peers``."""
    from tconv_bench import peers

    peer = peers.get(name)
    for answer in (peer.available(), peer.supports(problem)):
        if answer is not True:
            raise Unsupported(answer)
    peer.set_threads(threads)
    x, weight, bias = arrays.x, arrays.weight, arrays.bias
    if mode == "one-shot":
        ready = Ready(peer.one_shot(problem, x, weight, bias), lambda value: peer.result(value, None), output="fresh")
    else:
        out = arrays.out
        start = perf_counter()
        state = peer.prepare(problem, weight, bias)
        seconds = perf_counter() - start
        ready = Ready(
            peer.bind(state, x, out), lambda value: peer.result(value, out), output=peer.output, prepare_seconds=seconds
        )
        ready.bind = lambda: peer.bind(state, x, out)
    ready.facts["layout"] = peer.layout
    ready.session = peer.session
    return ready


class Worker:
    """Answers requests until its input ends."""

    def __init__(self) -> None:
        self.ready: dict[str, Ready] = {}
        self.arrays: dict[str, Arrays] = {}  # of one problem, by the folder they came from
        self.flush: Flusher | None = None

    def make(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make an entrant ready, run it once, and leave the result where the caller checks it."""
        ready = self._entrant(request)
        self.ready[request["id"]] = ready
        with ready.session():
            value = ready.call()
        np.save(request["result"], np.ascontiguousarray(ready.result(value)))
        return ready.facts

    def _entrant(self, request: dict[str, Any]) -> Ready:
        from tconv_bench.problem import Problem

        problem, folder = Problem.parse(request["problem"]), request["folder"]
        if folder not in self.arrays:
            self.arrays = {folder: Arrays(problem, Path(folder))}
        arrays = self.arrays[folder]
        if request["peer"]:
            return peer_entrant(request["method"], request["mode"], problem, arrays, request["threads"])
        import numba

        numba.set_num_threads(request["threads"])
        return own_entrant(request["method"], request["mode"], problem, arrays)

    def calls(self, request: dict[str, Any]) -> dict[str, Any]:
        """How many calls fill a sample."""
        ready, wanted, calls = self.ready[request["id"]], request["seconds"], 1
        seconds = self._timed(ready, 1, ready.warm)
        while seconds < wanted / 2:
            seconds = self._timed(ready, calls)
            calls *= 2 if seconds < wanted / 2 else 1
        return {"calls": max(1, round(calls * wanted / seconds))}

    def sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Seconds per call: of ``calls`` calls after untimed ones, or of a single call on empty caches."""
        ready, calls = self.ready[request["id"]], request["calls"]
        before: Callable[[], Any] = lambda: None  # noqa: E731
        if request["flushed"]:
            before = self.flush = self.flush or Flusher(request["flush_bytes"])
        else:
            before = ready.warm
        return {"seconds": self._timed(ready, calls, before) / calls}

    def _timed(self, ready: Ready, calls: int, before: Callable[[], Any] = lambda: None) -> float:
        """Seconds of so many calls after ``before``; it returns when the process is quiet."""
        call = ready.call
        with ready.session():
            before()
            gc.disable()
            start = perf_counter()
            for _ in range(calls):
                call()
            seconds = perf_counter() - start
            gc.enable()
        wait_until_quiet()
        return seconds

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bytes that calls hold at their peak beyond input, prepared state and output; never in a process that times."""
        ready = self._entrant(request)
        fresh = request["out_bytes"] if ready.facts["output"] == "fresh" else 0
        try:
            import memray
        except ImportError:
            return {} if request["peer"] else {"workspace_bytes": max(0, _traced(ready.call) - fresh), "by": "tracemalloc"}
        # An engine that writes into a given array sets up its buffers when that is bound and keeps them for later calls.
        begin = ready.bind if ready.bind is not None and not fresh else lambda: ready.call
        with tempfile.TemporaryDirectory() as folder, ready.session():
            if begin is not ready.bind:
                ready.call()
            path = Path(folder) / "allocations"
            with memray.Tracker(path):
                call = begin()
                for _ in range(2):
                    call()
            with memray.FileReader(path) as reader:
                peak = int(reader.metadata.peak_memory)
        return {"workspace_bytes": max(0, peak - fresh), "by": "memray"}

    def ceilings(self, request: dict[str, Any]) -> dict[str, Any]:
        """The machine's limits on this process' threads."""
        import numba

        from tconv_bench import ceilings

        numba.set_num_threads(request["threads"])
        found = ceilings.measure()
        wait_until_quiet()
        return found

    def drop(self, request: dict[str, Any]) -> dict[str, Any]:
        """Forget what was made ready."""
        self.ready.clear()
        self.arrays.clear()
        gc.collect()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request's answer; whatever goes wrong is a sentence in it."""
        try:
            result: dict[str, Any] = getattr(self, request["op"])(request)
            return result
        except (Unsupported, NotImplementedError) as reason:
            return {"unsupported": str(reason)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}


def _traced(call: Callable[[], Any]) -> int:
    from tconv_bench import measure

    return measure.traced_peak(call)


def main() -> None:
    """Serve requests; what engines print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
