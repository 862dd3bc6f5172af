"""Other engines: what they promise without being installed; where they are, every awkward problem against the definition."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tconv_bench import Problem, machine, measure, peers, reference, registry
from tconv_bench.peers import Peer, peer
from tests.problems import PROBLEMS

ENGINES = ("torch", "onnx", "onnxruntime", "openvino")
CPU, CUDA = peers.names("cpu"), peers.names("cuda")
EAGER = [name for name in CPU if name != "torch-compiled"]
ONE_SHOT = [name for name in EAGER if "one-shot" in peers.get(name).modes]
DCGAN = Problem.parse("n2_ci5_i4x4_co7_k4x4_s2x2_p1x1")


def installed(name: str) -> Peer:
    """The peer, with two threads; its test is skipped where it cannot run."""
    entry = peers.get(name)
    answer = entry.available()
    if answer is not True:
        pytest.skip(answer)
    entry.set_threads(2)
    return entry


@pytest.fixture(autouse=True)
def engines_as_before() -> Iterator[None]:
    yield
    for name in (*CPU, *CUDA):
        peers.get(name)._threads = None
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(machine.usable_cores())


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Peer]:
    """The register, as it was before afterwards."""
    entries = dict(peers._PEERS)
    monkeypatch.setattr(peers, "_PEERS", entries)
    return entries


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)


class Definition(Peer):
    """A fake engine: the reference, in the layout and with the output that it is registered with."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        return problem, weight.copy(), None if bias is None else bias.copy()

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        def call() -> Any:
            value = reference.conv_transpose(state[0], x, *state[1:]).astype(x.dtype)
            if self.output == "given":
                out[...] = value
                return None
            return np.ascontiguousarray(np.moveaxis(value, 1, -1)) if self.layout == "channels-last" else value

        return call

    def result(self, value: Any, out: NDArray[Any] | None) -> NDArray[Any]:
        if self.output == "given":
            return super().result(value, out)
        return np.ascontiguousarray(np.moveaxis(value, -1, 1)) if self.layout == "channels-last" else value


def fake(name: str = "fake", **more: Any) -> Peer:
    fields: dict[str, Any] = {"title": "t", "source": "s", "color": "#123456", "marker": "o", "packages": ()}
    peer(name, **(fields | more))(Definition)
    return peers.get(name)


def test_nothing_is_imported_before_it_computes():
    code = f"""
import sys
import tconv_bench, tconv_bench.peers as peers
from tconv_bench import Problem
for name in peers.names("cpu") + peers.names("cuda"):
    entry = peers.get(name)
    assert entry.supports(Problem.parse({str(DCGAN)!r})) is True
    entry.versions() if entry.device == "cpu" else None
    entry.available() if entry.device == "cpu" else None
print([name for name in {ENGINES} if name in sys.modules])
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_names_are_those_of_a_device_and_get_takes_both():
    assert {"torch", "torch-channels_last", "torch-compiled", "onnxruntime", "openvino"} <= set(CPU)
    assert {"cudnn", "cudnn-channels_last", "cudnn-tf32", "cudnn-channels_last-tf32"} <= set(CUDA)
    assert all(sorted(listed) == listed for listed in (CPU, CUDA))
    assert [peers.get(name).name for name in CPU + CUDA] == CPU + CUDA
    assert {peers.get(name).device for name in CUDA} == {"cuda"}


def test_unknown_names_and_devices_are_answered_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"peer is 'tensorflow', valid peers are on cpu onnxruntime, .*; on cuda cudnn, "):
        peers.get("tensorflow")
    with pytest.raises(ValueError, match="device is 'tpu', valid devices are cpu, cuda"):
        peers.names("tpu")


def test_a_second_claim_of_a_name_is_an_error_on_any_device(registered):
    fake()
    with pytest.raises(ValueError, match="peer 'fake' is already registered by Definition"):
        fake(device="cuda")
    with pytest.raises(ValueError, match="device is 'tpu', valid devices are cpu, cuda"):
        fake("another", device="tpu")


def test_a_file_of_the_folder_is_a_peer_unless_its_name_starts_with_an_underscore(tmp_path: Path, monkeypatch, registered):
    text = """
from tconv_bench.peers import Peer, peer
peer("{0}", title="t", source="s", color="#123456", marker="o", packages=("{0}",))(type("New", (Peer,), {{}}))
"""
    for name in ("new_engine", "_helper"):
        (tmp_path / f"{name}.py").write_text(text.format(name))
    monkeypatch.setattr(peers, "__path__", [*peers.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "tconv_bench.peers.new_engine", None)  # what it is set back to
    del sys.modules["tconv_bench.peers.new_engine"]
    peers._load.__wrapped__()
    assert set(peers.names()) == {*CPU, "new_engine"}
    assert peers.get("new_engine").modes == ("planned",)


def test_every_peer_looks_unlike_every_variant_and_every_other_peer():
    variants = [registry.get(name, device) for device in registry.DEVICES for name in registry.methods(device)]
    entries = [peers.get(name) for name in CPU + CUDA]
    for field in ("color", "marker"):
        own = [getattr(entry, field) for entry in entries]
        assert len(set(own)) == len(own)
        assert not set(own) & {getattr(entry, field) for entry in variants}


@pytest.mark.parametrize("name", CPU + CUDA)
def test_every_peer_says_what_it_is(name: str):
    entry = peers.get(name)
    assert entry.title
    assert entry.source
    assert entry.packages
    assert {"planned"} <= set(entry.modes) <= {"one-shot", "planned"}
    assert entry.layout in ("channels-first", "channels-last")
    assert entry.output in ("given", "fresh")


@pytest.mark.parametrize("name", CPU + CUDA)
def test_problems_that_a_peer_cannot_take_are_refused_in_one_sentence(name: str):
    answers = {problem: peers.get(name).supports(problem) for problem in PROBLEMS}
    assert sum(answer is True for answer in answers.values()) > 50
    for answer in answers.values():
        assert answer is True or (20 < len(answer) < 160 and "\n" not in answer and not answer.endswith(".")), answer


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("torch", "n1_ci2_i4x5_co3_k4x3_s2x2_p2:1x0:2", "alike, but this problem pads one by 2 and 1"),
        ("torch-channels_last", "n1_ci2_i4_co3_k3", "use 'torch'"),
        ("torch-compiled", "n1_ci2_i4x4_co3_k3x3_float64", "fails on float64; use 'torch'"),
        ("onnxruntime", "n1_ci2_i4_co3_k3_op1_d2", "it is 1 at stride 1"),
        ("onnxruntime", "n1_ci2_i4_co3_k3_float64", "this problem is float64"),
        ("onnxruntime", "n1_ci9000_i1x1_co9000_k4x4", "weights take 4.8"),
        ("openvino", "n1_ci2_i4_co3_k3_float64", "computes them in float32"),
        ("openvino", "n1_ci2_i4_co3_k3_int64", "this problem is int64"),
        ("cudnn", "n1_ci2_i4_co3_k3_int64", "this problem is int64"),
        ("cudnn-tf32", "n1_ci2_i4_co3_k3_float64", "use 'cudnn'"),
        ("cudnn-channels_last-tf32", "n1_ci2_i4x4_co3_k3_float64", "use 'cudnn-channels_last'"),
    ],
)
def test_the_sentence_names_what_is_in_the_way(name: str, text: str, part: str):
    assert part in str(peers.get(name).supports(Problem.parse(text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torch", "n1_ci2_i4_co3_k3_op1_d2_int64"),
        ("torch-compiled", "n1_ci2_i4_co3_k3_float64"),
        ("torch-compiled", "n1_ci2_i4x4_co2_k3x3_g2_float64"),
        ("onnxruntime", "n1_ci2_i4x5_co3_k4x3_s2x2_p2:1x0:2_op1x1"),
        ("openvino", "n1_ci2_i4_co3_k3_p2:0_op1_d2"),
    ],
)
def test_nothing_more_is_refused(name: str, text: str):
    assert peers.get(name).supports(Problem.parse(text)) is True


def test_what_is_not_installed_is_named_with_the_command_that_brings_it(registered):
    assert fake().available() is True
    one, two = fake("one", packages=("sys", "no_such_engine")), fake("two", packages=("no_such_engine", "nor_this"))
    assert one.available() == "no_such_engine is not installed: pip install 'tconv-bench[peers]'"
    assert two.available() == "no_such_engine and nor_this are not installed: pip install 'tconv-bench[peers]'"
    assert two.versions() == {}


@pytest.mark.parametrize("name", CPU + CUDA)
def test_an_engine_that_is_missing_is_a_sentence(name: str, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = peers.get(name).available()
    assert " not installed: pip install " in answer
    assert "download.pytorch.org/whl/cpu" in answer or not (sys.platform == "linux" and name.startswith("torch"))


def test_compiling_needs_a_compiler_and_headers(monkeypatch):
    entry = peers.get("torch-compiled")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert entry.available() == (
        "torch.compile needs a C++ compiler, and '/no/such/compiler' is not found: install one or name it in CXX"
    )
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    assert "/nowhere has no Python.h" in entry.available()


def test_versions_are_found_under_another_distribution_s_name(monkeypatch):
    def version(name: str) -> str:
        if name == "onnxruntime-gpu":
            return "1.2.3"
        raise peers.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert peers.get("onnxruntime").versions() == {"onnxruntime": "1.2.3"}


def test_threads_are_every_usable_core_until_they_are_set(registered):
    entry = fake()
    assert entry.threads == machine.usable_cores()
    entry.set_threads(7)
    assert entry.threads == 7
    with pytest.raises(ValueError, match="threads is 0, but must be >= 1"):
        entry.set_threads(0)
    with pytest.raises(TypeError, match=r"threads is 1\.5"):
        entry.set_threads(1.5)


def test_memory_and_one_shot_calls_are_not_made_up(registered):
    entry = fake()
    with pytest.raises(NotImplementedError, match="fake takes weights only when it is prepared"):
        entry.one_shot(DCGAN, *[np.zeros(1)] * 3)
    for question in (entry.prepared_bytes, entry.workspace_bytes):
        with pytest.raises(NotImplementedError):
            question(DCGAN)
    with entry.session():
        pass


@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
@pytest.mark.parametrize("output", ["given", "fresh"])
def test_run_writes_into_out_whatever_calls_return(output: str, layout: str, registered):
    entry, data, out = fake(output=output, layout=layout), measure.make_data(DCGAN), measure.poisoned(DCGAN)
    entry.run(entry.prepare(DCGAN, data.weight, data.bias), data.x, out)
    assert measure.wrong(DCGAN, data, out) == ""


def failures(entry: Peer, problems: list[Problem], compute: Callable[..., NDArray[Any]]) -> list[str]:
    """Supported problems that come out wrong, with and without a bias."""
    found = []
    for problem in problems:
        if entry.supports(problem) is not True:
            continue
        data = measure.make_data(problem)
        for bias in (data.bias, None):
            expected = measure.Data(data.x, data.weight, data.bias if bias is not None else np.zeros_like(data.bias))
            why = measure.wrong(problem, expected, compute(problem, data.x, data.weight, bias))
            if why:
                found.append(f"{problem}{'' if bias is not None else ' without bias'}: {why}")
    return found


def planned(entry: Peer) -> Callable[..., NDArray[Any]]:
    def compute(problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> NDArray[Any]:
        out = measure.poisoned(problem)
        entry.run(entry.prepare(problem, weight, bias), x, out)
        return out

    return compute


def one_shot(entry: Peer) -> Callable[..., NDArray[Any]]:
    return lambda *problem_and_data: entry.result(entry.one_shot(*problem_and_data)(), None)


# OpenVINO compiles each problem for 0.1 s
SLOW_AT_PLANS = [pytest.param(name, marks=pytest.mark.slow) if name == "openvino" else name for name in (*EAGER, *CUDA)]


@pytest.mark.parametrize("name", SLOW_AT_PLANS)
def test_planned_calls_on_every_awkward_problem(name: str):
    entry = installed(name)
    if "tf32" in name:
        pytest.skip("TF32 is outside of float32's rounding")
    assert failures(entry, PROBLEMS, planned(entry)) == []


@pytest.mark.parametrize("name", [*ONE_SHOT, *CUDA])
@pytest.mark.parametrize("inside", [True, False], ids=["in session", "outside"])
def test_one_shot_calls_on_every_awkward_problem(name: str, inside: bool):
    entry = installed(name)
    if "tf32" in name:
        pytest.skip("TF32 is outside of float32's rounding")
    with entry.session() if inside else nullcontext():
        assert failures(entry, PROBLEMS, one_shot(entry)) == []


COMPILED = [
    Problem.parse(text) for text in ("n2_ci5_i4x4_co7_k4x4_s2x2_p1x1", "n1_ci2_i5_co3_k3_s2_op1", "n1_ci3_i3x4x2_co4_k3")
]


def test_compiled_calls_use_packed_weights():
    entry, data = installed("torch-compiled"), measure.make_data(DCGAN)
    from torch._inductor.utils import run_and_get_code

    _, code = run_and_get_code(entry.prepare, DCGAN, data.weight, data.bias)
    assert "torch.ops.mkldnn._convolution_transpose_pointwise.default(" in "".join(code)


def test_compiled_calls_stay_compiled_and_leave_settings_alone():
    entry = installed("torch-compiled")
    import torch
    from torch._inductor import config

    before = config.freezing, config.compile_threads
    ready = []
    for problem in COMPILED:
        data = measure.make_data(problem)
        ready.append((problem, data, entry.prepare(problem, data.weight, data.bias)))
    assert (config.freezing, config.compile_threads) == before
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for problem, data, state in ready:
            for session in (nullcontext(), entry.session()):
                out = measure.poisoned(problem)
                with session:
                    entry.run(state, data.x, out)
                assert measure.wrong(problem, data, out) == "", problem
    finally:
        torch.compiler.set_stance("default")


def test_nobody_compiles_for_one_call():
    with pytest.raises(NotImplementedError, match="use 'torch'"):
        peers.get("torch-compiled").one_shot(DCGAN, *[np.zeros(1)] * 3)


@pytest.mark.slow
def test_compiled_problems_may_be_many():
    entry = installed("torch-compiled")
    problems = [Problem(1, 4, (size, 3), 4, 3, stride=2) for size in range(2, 14)]
    assert failures(entry, problems, planned(entry)) == []


@pytest.mark.slow
def test_compiled_calls_on_every_awkward_problem():
    entry = installed("torch-compiled")
    assert failures(entry, PROBLEMS, planned(entry)) == []


@pytest.mark.parametrize("name", EAGER)
def test_state_keeps_no_reference_to_the_callers_arrays(name: str):
    entry, data, out = installed(name), measure.make_data(DCGAN), measure.poisoned(DCGAN)
    weight, bias = data.weight.copy(), data.bias.copy()
    state = entry.prepare(DCGAN, weight, bias)
    weight[...], bias[...] = np.nan, np.nan
    entry.run(state, data.x, out)
    assert measure.wrong(DCGAN, data, out) == ""


@pytest.mark.parametrize("name", EAGER)
def test_a_bound_call_reads_the_callers_input_and_gives_a_fresh_or_the_given_output(name: str):
    entry, data, out = installed(name), measure.make_data(DCGAN), measure.poisoned(DCGAN)
    call = entry.bind(entry.prepare(DCGAN, data.weight, data.bias), data.x, out)
    first = entry.result(call(), out)
    assert measure.wrong(DCGAN, data, first) == ""
    assert np.shares_memory(first, out) == (entry.output == "given")
    kept = first.copy()
    if entry.layout == "channels-first":
        data.x[...] *= 2
    second = entry.result(call(), out)
    assert measure.wrong(DCGAN, data, second) == ""
    if entry.output == "fresh":
        np.testing.assert_array_equal(first, kept)
        assert np.isnan(out).all()


@pytest.mark.parametrize("name", EAGER)
def test_a_bound_call_keeps_alive_what_it_reads_and_writes(name: str):
    entry, data = installed(name), measure.make_data(DCGAN)
    state = entry.prepare(DCGAN, data.weight, data.bias)
    call = entry.bind(state, data.x.copy(), measure.poisoned(DCGAN))
    gc.collect()
    clutter = [np.full(DCGAN.x_shape, np.nan, np.float32) for _ in range(100)]
    call()
    assert all(np.isnan(array).all() for array in clutter)


@pytest.mark.parametrize("name", EAGER)
def test_threads_and_versions_are_the_engine_s(name: str):
    entry, data = installed(name), measure.make_data(DCGAN)
    entry.set_threads(1)
    state = entry.prepare(DCGAN, data.weight, data.bias)
    if name.startswith("torch"):
        assert sys.modules["torch"].get_num_threads() == 1
    elif name == "onnxruntime":
        assert state.get_session_options().intra_op_num_threads == 1
    else:
        settings = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "INFERENCE_PRECISION_HINT")
        assert [str(state.get_property(key)) for key in settings] == ["1", "1", "<Type: 'float32'>"]
    found = entry.versions()
    assert list(found) == list(entry.packages)
    assert all(found.values())


@pytest.mark.parametrize("name", EAGER)
def test_engines_say_nothing(name: str):
    installed(name)
    code = f"""
from tconv_bench import Problem, measure, peers
problem, entry = Problem.parse({str(DCGAN)!r}), peers.get({name!r})
data, out = measure.make_data(problem), measure.poisoned(problem)
entry.run(entry.prepare(problem, data.weight, data.bias), data.x, out)
print(repr(measure.wrong(problem, data, out)))
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("''\n", "")


@pytest.mark.parametrize("text", ["n2_ci5_i4x4_co7_k4x4_s2x2_p1x1", "n2_ci4_i3x4x2_co3_k3"])
def test_channels_last_tensors_are_channels_last(text: str):
    entry, problem = installed("torch-channels_last"), Problem.parse(text)
    data = measure.make_data(problem)
    _, weight, _ = entry.prepare(problem, data.weight, data.bias)
    for tensor in (weight, entry.tensor(data.x), entry.one_shot(problem, data.x, data.weight, data.bias)()):
        assert tensor.stride(1) == 1


@pytest.mark.parametrize("name", ONE_SHOT)
def test_one_shot_calls_see_the_weights_that_the_user_has(name: str):
    entry, data = installed(name), measure.make_data(DCGAN)
    call = entry.one_shot(DCGAN, data.x, data.weight, data.bias)
    assert measure.wrong(DCGAN, data, entry.result(call(), None)) == ""
    if entry.layout == "channels-first":
        data.weight[...] *= 2
        assert measure.wrong(DCGAN, data, entry.result(call(), None)) == ""


@pytest.mark.parametrize("name", CUDA)
def test_cuda_peers_say_what_is_missing_or_run(name: str):
    entry = peers.get(name)
    answer = entry.available()
    if answer is not True:
        assert "torch is not installed: pip install torch" in answer or "finds no CUDA device" in answer
        return
    assert {"torch", "cuda", "cudnn"} <= set(entry.versions())


@pytest.mark.parametrize("name", CUDA)
def test_cuda_peers_compute_right_with_the_cpu_in_the_devices_place(name: str, monkeypatch):
    """What surrounds cuDNN, where there is none: tensors, layouts, the first call, and the precision of each call."""
    torch = pytest.importorskip("torch")
    from tconv_bench.peers.cudnn import Cudnn

    entry, waited = peers.get(name), []
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has one switch for TF32, not one per kind of call")
    settings = torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision
    monkeypatch.setattr(entry, "device", "cpu")
    monkeypatch.setattr(Cudnn, "_active", None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: waited.append(torch.backends.cudnn.conv.fp32_precision))
    problems = [problem for problem in PROBLEMS if problem.dtype != "int64"][::7]
    try:
        assert failures(entry, problems, planned(entry)) == []
        assert failures(entry, problems, one_shot(entry)) == []
        assert torch.backends.cudnn.benchmark
        assert set(waited) == {"tf32" if "tf32" in name else "ieee"}
        other = peers.get("cudnn" if "tf32" in name else "cudnn-tf32")
        monkeypatch.setattr(other, "device", "cpu")
        data = measure.make_data(DCGAN)
        calls = [who.one_shot(DCGAN, data.x, data.weight, data.bias) for who in (entry, other, entry)]
        waited.clear()
        for call in calls:
            call()
        assert waited == [entry.precision, other.precision, entry.precision]
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision = settings
