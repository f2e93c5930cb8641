"""Samples that are not the same everywhere: a mesh scan shows the map of the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from device_client import Client
from scipy.special import erf

from ioc.samples import read_table, write_table
from ioc.simulator import start_device_server

pytestmark = pytest.mark.system

ENERGY = 7300.0
FWHM = 50.0


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("maps")
    return [write_table(name, folder) for name in ("Cu", "Fe2O3-grains")]


@pytest.fixture(scope="module")
def mapped(tables: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with (
        start_device_server(log=log, samples=tables, lock_step=True) as child,
        Client(int(child.info["port"])) as client,
    ):
        client.do("PUT:BL02:SHUTTER:CMD:1")
        client.do("PUT:BL02:SAMPLE:SELECT:1")
        client.do(f"MOVE:BL02:MONO:ENERGY:{ENERGY}")
        yield client


def true_map(client: Client) -> npt.NDArray[np.float64]:
    ny, nx, full, pixels = client.ask("TRUTH:MAP:1").removeprefix("OK:").split(";")
    return np.array(pixels.split(","), dtype=float).reshape(int(ny), int(nx)) / float(full)


def mesh(
    client: Client, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Counts at every point, shape (y, x)."""
    lines = ["MOVE:BL02:SAMPLE:THETA:0\nPUT:BL02:DET:EXPOSURE:1"]
    for y in ys:
        lines.append(f"MOVE:BL02:SAMPLE:Y:{y}")
        lines += [f"MOVE:BL02:SAMPLE:X:{x}\nMGET:BL02:DET:I0,BL02:DET:IT,BL02:DET:IF" for x in xs]
    rows = []
    for line in lines:
        client.send(line.encode() + b"\n")
        replies = [client.line() for _ in range(line.count("\n") + 1)]
        assert all(reply.startswith("OK:") for reply in replies), replies
        if "MGET" in line:
            rows.append([float(word) for word in replies[-1][3:].split(",")])
    counts = np.array(rows).reshape(len(ys), len(xs), 3)
    return {name: counts[..., i] for i, name in enumerate(("i0", "it", "if"))}


def footprint(points: npt.NDArray[np.float64], size: float, pixels: int) -> npt.NDArray[np.float64]:
    """Part of the beam on each pixel, shape (points, pixels)."""
    edges = size * (np.arange(pixels + 1) / pixels - 0.5)
    return np.diff(0.5 * erf((edges - points[:, None]) * 2 * np.sqrt(np.log(2)) / FWHM), axis=1)


def test_a_mesh_scan_recovers_the_map(mapped: Client, tables: list[Path]) -> None:
    truth = read_table(tables[1])
    relative = true_map(mapped)
    assert (np.rint(relative * 255) == truth.thickness).all()
    info = mapped.truth()["samples"][1]
    assert info["map"] == {"file": "Fe2O3-grains.pgm", "shape": list(relative.shape)}
    place = truth.truth
    ny, nx = relative.shape
    x = place.width_um * ((np.arange(nx) + 0.5) / nx - 0.5)
    y = place.height_um * ((np.arange(ny) + 0.5) / ny - 0.5)
    counts = mesh(mapped, place.x_um + x, place.y_um + y)
    mut = np.interp(ENERGY, truth.energy, truth.total)

    transmission = counts["it"] / counts["i0"]
    on_x, on_y = footprint(x, place.width_um, nx), footprint(y, place.height_um, ny)
    through = 1.0 - on_y @ (1.0 - np.exp(-mut * relative)) @ on_x.T
    np.testing.assert_allclose(transmission, through, rtol=3e-3)

    thickness = -np.log(transmission) / mut
    blurred = on_y @ relative @ on_x.T
    assert np.std(thickness - blurred) / np.std(blurred) < 0.12  # thin parts weigh more in exp(−µt)
    assert np.corrcoef(thickness.ravel(), relative.ravel())[0, 1] > 0.9
    fluorescence = counts["if"] / counts["i0"]
    absorbed = 1.0 - through
    assert np.corrcoef(fluorescence.ravel(), absorbed.ravel())[0, 1] > 0.999
    # The map is not upside down or mirrored.
    for wrong in (relative[::-1], relative[:, ::-1]):
        assert np.corrcoef(thickness.ravel(), wrong.ravel())[0, 1] < 0.5


def test_the_other_sample_is_the_same_everywhere(mapped: Client, tables: list[Path]) -> None:
    foil = read_table(tables[0]).truth
    mapped.do("PUT:BL02:SAMPLE:SELECT:0")
    counts = mesh(mapped, foil.x_um + np.linspace(-600, 600, 7), foil.y_um + np.array([-300, 300]))
    mapped.do("PUT:BL02:SAMPLE:SELECT:1")
    transmission = counts["it"] / counts["i0"]
    assert np.ptp(transmission) < 3e-3
    assert mapped.ask("TRUTH:MAP:0") == "ERR:INVALID_VALUE"
    assert mapped.ask("TRUTH:MAP:2") == "ERR:INVALID_VALUE"
    assert mapped.ask("TRUTH:MAP") == "ERR:INVALID_VALUE"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, r"No such file"),
        ("P2 2 2 9\n1 2 3\n", r"ends before its last pixel"),
        ("P2 2 2 9\n1 2 3 10\n", r"exceeds its greatest value"),
        ("P6 1 1 9\n1\n", r"not a PGM file"),
    ],
)  # fmt: skip
def test_a_bad_map_stops_the_server(table: Path, tmp_path: Path, image: str | None, words: str):
    from beamline.core.errors import ProcessError

    (tmp_path / "bad.table").write_text("# map: bad.pgm\n" + table.read_text())
    if image is not None:
        (tmp_path / "bad.pgm").write_text(image)
    with pytest.raises(ProcessError, match=rf"bad\.table.*bad\.pgm.*{words}"):
        start_device_server(log=tmp_path / "log", samples=[tmp_path / "bad.table"])
