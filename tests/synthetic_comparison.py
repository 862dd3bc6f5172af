"""Comparison rows that no machine ever made: a cost model for six entrants of this project and five other engines."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from tconv_bench import ceilings, layers, store
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

OWN = ("auto", "direct", "scatter_add", "col2im", "zero_insertion", "matmul")
PEERS = {
    "one-shot": ("torch", "torch-channels_last"),
    "planned": ("torch", "torch-channels_last", "torch-compiled", "onnxruntime", "openvino"),
}
CONDITIONS = (("one-shot", "hot"), ("one-shot", "flushed"), ("planned", "hot"), ("planned", "flushed"))
THREADS = 4
SCALED = ("DCGAN g2", "CycleGAN up1", "U-Net up92", "HiFi-GAN-V1 u2", "nnU-Net up14")
LIMITS = {
    "fma_gflops": {"float32": 230.1, "float64": 115.0},
    "copy": [[2**17, 95e9], [2**20, 88e9], [2**22, 61e9], [2**24, 40e9], [2**26, 19e9], [2**28, 13.4e9], [2**29, 13.1e9]],
    "fill": [[2**17, 120e9], [2**20, 99e9], [2**22, 70e9], [2**24, 45e9], [2**26, 14e9], [2**28, 9.8e9], [2**29, 9.7e9]],
}
SETTINGS = {"width": 0.05, "budget": 0.5, "calls": 12, "allocator": "glibc, thresholds fixed"}
COMMON = {
    "suite": "compare",
    "threads": THREADS,
    "measured_at": "2025-11-20T12:00:00+00:00",
    "machine": {
        "name": "bench", "cpu": "Example CPU", "arch": "x86_64", "cores": 4, "ram": 8 * 2**30, "os": "Linux 6.1",
        "governor": "performance",
    },
    "versions": {"python": "3.12.1", "numpy": "2.1.0", "numba": "0.62.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "workspace_by": "memray",
}  # fmt: skip


ENGINES = {"torch": "2.9.0", "onnxruntime": "1.23.2", "openvino": "2025.3.0"}


def row(method: str, median: float | None, problem: Problem | str = "n1_ci8_i8x8_co8_k4x4_s2x2_p1x1", **changes) -> Measurement:
    """One row whose interval reaches ``spread`` (a part of the median) to both sides; peers are told by their names."""
    problem = Problem.parse(problem) if isinstance(problem, str) else problem
    spread = changes.pop("spread", 0.005)
    mode, kept = changes.get("mode", "planned"), changes.get("cache", "hot")
    values = {
        **COMMON, "problem": str(problem), "label": changes.get("label", str(problem)), "mode": mode, "cache": kept,
        "peer": method in PEERS["planned"],
        "layout": "channels-last" if method == "torch-channels_last" else "channels-first",
        "ceilings": LIMITS,
        "settings": {**SETTINGS, "output": "given" if mode == "planned" and method in OWN else "fresh"},
    }  # fmt: skip
    engine = method.partition("-")[0]
    if engine in ENGINES:
        values["versions"] = {**COMMON["versions"], engine: ENGINES[engine]}
    values["group"] = f"{values['label']} {mode} {kept} {changes.get('threads', THREADS)} {changes.get('measured_at', '')}"
    if median is not None:
        limits = changes.get("ceilings", LIMITS)
        least = ceilings.least_seconds(problem, limits, kept)
        values |= {
            "median": median, "low": median * (1 - spread), "high": median * (1 + spread), "minimum": median * (1 - spread),
            "samples": tuple(median * (1 + spread * step) for step in (-1, -0.5, 0, 0.5, 1)),
            "gflops": problem.flops / median / 1e9, "roofline": least / median if least else None,
            "prepare_seconds": 1e-4 if mode == "planned" else None, "workspace_bytes": 0,
            "prepared_bytes": problem.itemsize * problem.c_in * problem.c_out if mode == "planned" and method in OWN else None,
        }  # fmt: skip
    return Measurement(method=method, median=values.pop("median", None), **(values | changes))


def group(times: dict[str, float | None], label: str = "A g1", floor: float = 0.01, **changes) -> list[Measurement]:
    """One group: an entrant and its median each, and an A/A control of ``auto`` whose spread is ``floor``."""
    found = [row(name, median, label=label, **changes) for name, median in times.items()]
    auto = times.get("auto")
    if auto is not None:
        high = auto * (1 - changes.get("spread", 0.005)) * (1 + floor)
        found.append(replace(row("auto", auto, label=label, **changes), control=True, high=high))
    return found


def _weights(problem: Problem) -> int:
    return problem.itemsize * problem.c_in * problem.c_out * problem.taps // problem.groups


def _unsupported(name: str, label: str, problem: Problem) -> str:
    if name == "matmul" and problem.flops > 3e8:
        return "the convolution matrix would need 12.0 GiB; use direct instead"
    if name == "torch-channels_last" and problem.ndim == 1:
        return "torch has no channels-last memory format for 1-D; use torch instead"
    if name == "onnxruntime" and set(problem.dilation) != {1} and problem.groups > 1:
        return "ConvTranspose of ONNX Runtime fails with groups and dilation; use torch instead"
    if name == "openvino" and label == "FCN-32s score":
        return "wrong result: 12 of 5505024 elements differ, the worst at (0, 3, 7, 9): 1.25 instead of 1.31"
    if name == "torch" and label == "ISTFT n1024":
        return "failed: out of memory"
    return ""


def _model(name: str, label: str, problem: Problem, mode: str, kept: str, threads: int) -> float:
    """Seconds: what starting costs, the arithmetic at the entrant's efficiency, the bytes, and for one-shot the packing."""
    if name == "auto":
        return min(_model(n, label, problem, mode, kept, threads) for n in ("direct", "scatter_add", "col2im"))
    luck = random.Random(f"{label} {name}").uniform(0.75, 1.45)
    stretch = 1
    for stride in problem.stride:
        stretch *= stride
    efficiency = {
        "direct": 0.55, "scatter_add": 0.5, "col2im": 0.42, "zero_insertion": 0.6 / stretch, "matmul": 0.02, "torch": 0.44,
        "torch-channels_last": 0.5, "torch-compiled": 0.52, "onnxruntime": 0.3, "openvino": 0.56,
    }[name]  # fmt: skip
    start = {"torch": 9e-6, "torch-channels_last": 1.1e-5, "torch-compiled": 2.2e-5, "onnxruntime": 1.4e-5, "openvino": 2.8e-5}
    wide = min(1.0, 0.35 + problem.c_out / 96)
    parallel = threads**0.9 / THREADS**0.9 if problem.flops > 1e7 else 1.0
    copied = ceilings.bandwidth_at(LIMITS["copy"], problem.min_bytes if kept == "hot" else 2**29)
    work = problem.flops / (efficiency * wide * 230e9 * parallel) * luck
    bytes_moved = problem.min_bytes * (3 if name in ("col2im", "onnxruntime") else 1.3) / copied
    pack = _weights(problem) / 9e9 if mode == "one-shot" and name != "matmul" else 0.0
    cold = 1.5e-5 if kept == "flushed" else 0.0
    return start.get(name, 4e-6) + cold + work + bytes_moved + pack


def _prepare(name: str, problem: Problem) -> float:
    fixed = {"torch-compiled": 6.5, "onnxruntime": 4e-3, "openvino": 3e-2, "torch": 4e-6}
    return fixed.get(name, 2e-6) + _weights(problem) / (9e8 if name == "matmul" else 4e9)


def _workspace(name: str, problem: Problem, mode: str) -> int:
    output = problem.itemsize * problem.batch * problem.c_out * problem.out_pixels
    columns = problem.itemsize * problem.batch * problem.c_out * problem.taps * problem.in_pixels
    needed = {"col2im": columns, "onnxruntime": columns, "scatter_add": output // 8 if problem.stride[0] > 1 else 0}
    needed |= {"zero_insertion": problem.itemsize * problem.c_in * problem.out_pixels, "torch": 192, "torch-compiled": 4096}
    needed |= {"openvino": 65536, "torch-channels_last": 2 * output}
    return needed.get(name, 0) + (_weights(problem) if mode == "one-shot" else 0)


def _samples(seed: str, median: float) -> tuple[float, ...]:
    noise = random.Random(seed)
    width = noise.choice((0.003, 0.006, 0.01, 0.02))
    times = (median * (1 + abs(noise.gauss(0, width)) + 0.05 * noise.random() ** 8) for _ in range(noise.randint(8, 18)))
    return tuple(float(f"{time:.6g}") for time in times)


def modelled(label: str, problem: Problem, mode: str, kept: str, threads: int = THREADS) -> list[Measurement]:
    """One group: every entrant of a mode, and the control."""
    found = []
    common = {"label": label, "mode": mode, "cache": kept, "threads": threads}
    for name in (*OWN, *PEERS[mode], "control"):
        method = "auto" if name == "control" else name
        note = _unsupported(method, label, problem)
        if note:
            found.append(row(method, None, problem, note=note, **common))
            continue
        # The control is the same code in another process: the same speed but for where its memory came to lie.
        place = 1 + 0.006 * random.Random(f"{label} {mode} {kept} {threads} {name}").random()
        seconds = _model(method, label, problem, mode, kept, threads) * place
        times = store.timing_fields(_samples(f"{label} {mode} {kept} {threads} {name}", seconds))
        planned = {"prepare_seconds": _prepare(method, problem)} if mode == "planned" else {}
        found.append(
            row(method, times.pop("median"), problem, **times, **planned, control=name == "control",
                workspace_bytes=_workspace(method, problem, mode), **common)
        )  # fmt: skip
    return [replace(r, gflops=problem.flops / r.median / 1e9) if r.median else r for r in found]


@cache
def comparison_rows(count: int | None = None) -> tuple[Measurement, ...]:
    """The first ``count`` layers of layers.csv (None: all) in both modes and cache states, some at 1 and 2 threads too."""
    chosen = layers.read()[:count]
    found = [r for mode, kept in CONDITIONS for layer in chosen for r in modelled(layer.label, layer.problem, mode, kept)]
    scaled = [layer for layer in chosen if layer.label in SCALED]
    found += [r for threads in (1, 2) for la in scaled for r in modelled(la.label, la.problem, "planned", "hot", threads)]
    return tuple(found)
