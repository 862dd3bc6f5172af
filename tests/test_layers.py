"""The layers file is read as it stands, and what is wrong in one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tconv_bench import layers

HEADER = ",".join(layers.COLUMNS)
GOOD = "DCGAN,g2,64,512,4x4,256,4x4,2x2,1x1,0x0,1,1x1,a paper"


def test_the_projects_own_layers() -> None:
    found = layers.read()
    labels = [layer.label for layer in found]
    assert len(found) == len(set(labels)) == 67
    by_label = {layer.label: layer for layer in found}
    assert str(by_label["DCGAN g2"].problem) == "n1_ci512_i4x4_co256_k4x4_s2x2_p1x1"
    assert str(by_label["DCGAN g2 N=64"].problem) == "n64_ci512_i4x4_co256_k4x4_s2x2_p1x1"
    assert by_label["WaveGAN g5"].problem.out_size == (4 * 4096,)
    assert {layer.problem.ndim for layer in found} == {1, 2, 3}
    assert all(layer.source for layer in found)


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "layers.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_label_names_the_batch(tmp_path: Path) -> None:
    (layer,) = layers.read(write(tmp_path, HEADER, GOOD))
    assert (layer.label, layer.source) == ("DCGAN g2 N=64", "a paper")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEADER.replace("kernel,", ""), GOOD), "line 1: missing column kernel"),
        ((HEADER, GOOD, GOOD.replace("512", "5.5")), "line 3: c_in is '5.5', but must be a whole number"),
        ((HEADER, GOOD.replace("4x4,2x2", "4x,2x2")), "line 2: kernel is '4x'"),
        ((HEADER, GOOD.replace("2x2", "0x0")), "line 2: stride is 0, but must be >= 1"),
        ((HEADER, GOOD.replace(",1,1x1,a", ",3,1x1,a")), "line 2: groups is 3, but must divide c_in"),
        ((HEADER, GOOD.replace("2x2", "2x2x2")), "line 2: stride is"),
        ((HEADER, "DCGAN,g2"), "line 2: no value for n, c_in"),
        ((HEADER, GOOD, GOOD), "the label 'DCGAN g2 N=64' stands there twice"),
        ((HEADER,), "holds no layer"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(layers.LayersError) as error:
        layers.read(write(tmp_path, *lines))
    assert str(error.value).startswith(str(tmp_path / "layers.csv"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(layers.LayersError, match=r"none.csv: cannot be read \(No such file"):
        layers.read(tmp_path / "none.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(layers.LayersError, match=r"binary: not a CSV file"):
        layers.read(tmp_path / "binary")
