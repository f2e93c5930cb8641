"""The scripting interface without a server: configurations, arrays, files by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_documents import spectrum
from pydantic import ValidationError

from beamline.core.errors import ConfigurationError, FileFormatError, StorageError
from beamline.daq import LinearScanConfig, MeshScanConfig, NeXusWriter, ScanData, XAFSScanConfig
from beamline.nexus.shapes import find_mesh

X, Y, I0, IT = "BL02:SAMPLE:X", "BL02:SAMPLE:Y", "BL02:DET:I0", "BL02:DET:IT"


def line(points: int = 21, **metadata: Any) -> ScanData:
    x = np.linspace(-10, 10, points)
    counts = {I0: np.full(points, 1e5), IT: 1e4 + x}
    return ScanData({X: x}, counts, 1.7e9 + np.arange(points), metadata)


def mesh(ny: int = 4, nx: int = 5, *, snake: bool = True, swap: bool = False) -> ScanData:
    generator = np.random.default_rng(5)
    iy, ix = np.divmod(np.arange(ny * nx), nx)
    if snake:
        ix = np.where(iy % 2, nx - 1 - ix, ix)
    noise = generator.uniform(-0.01, 0.01, (2, ny * nx))
    positions = {Y: iy + noise[0], X: 10.0 - ix + noise[1]}
    if swap:
        positions = dict(reversed(positions.items()))
    return ScanData(positions, {I0: 100.0 * iy + ix}, 1.7e9 + np.arange(ny * nx))


def xafs(**metadata: Any) -> ScanData:
    values = spectrum(60)
    counts = {I0: values["i0"], IT: values["itrans"]}
    known = {"edge": 8979.0, "ring_current": 351.5, "sample_name": "Cu foil", **metadata}
    return ScanData(
        {"BL02:MONO:ENERGY": values["mono_energy"]}, counts, 1.7e9 + np.arange(60), known
    )


# --- configurations -----------------------------------------------------------------------------


def test_configurations_say_where_a_scan_goes():
    linear = LinearScanConfig(motor=X, start=-1, stop=1, steps=5, detectors=[I0])
    assert linear.scan_type == "linear"
    assert linear.positions.tolist() == [-1, -0.5, 0, 0.5, 1]
    grid = MeshScanConfig(motor1=(Y, 0.0, 1.0, 2), motor2=(X, 0.0, 2.0, 3), detectors=[I0])
    assert grid.positions1.tolist() == [0, 1]
    assert grid.positions2.tolist() == [0, 1, 2]
    energies = XAFSScanConfig(
        edge=7112.0, regions=[(-20.0, 0.0, 5.0), (0.0, 2.0, 0.5)], detectors=[I0]
    ).generate_energies()
    assert energies[0] == 7092.0
    assert energies[-1] == 7114.0
    assert (np.diff(energies) > 0).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LinearScanConfig(motor=X, start=1, stop=-1, steps=5, detectors=[I0]),
         "stop must be greater than start"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=1, steps=0, detectors=[I0]), "steps"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=1, steps=2, detectors=[]), "detectors"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=1, steps=2, detectors=[I0, I0]), "twice"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=float("nan"), steps=2, detectors=[I0]),
         "stop"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=1, steps=2, detectors=[I0], dwel=1),
         "dwel"),
        (lambda: LinearScanConfig(motor=X, start=0, stop=1, steps=2, detectors=[I0], dwell_time=0),
         "dwell_time"),
        (lambda: MeshScanConfig(motor1=(X, 0, 1, 2), motor2=(X, 0, 1, 2), detectors=[I0]),
         "two motors"),
        (lambda: MeshScanConfig(motor1=(X, 0, 1, 0), motor2=(Y, 0, 1, 2), detectors=[I0]),
         "number of points"),
        (lambda: XAFSScanConfig(edge=7112, regions=[(-150, -20, -5)], detectors=[I0]),
         "step_size must be > 0"),
        (lambda: XAFSScanConfig(edge=7112, regions=[(-150, -20, 5), (-30, 30, 1)], detectors=[I0]),
         "overlaps"),
    ],
)  # fmt: skip
def test_wrong_configurations_are_refused(make: Any, told: str):
    with pytest.raises(ValidationError, match=told):
        make()


# --- arrays and tables --------------------------------------------------------------------------


def test_a_table_gives_back_what_was_written(tmp_path: Path):
    generator = np.random.default_rng(2)
    data = ScanData(
        {X: generator.normal(size=50)},
        {I0: generator.poisson(5, 50), "state": np.array(["a,b", 'c"\n'] * 25),
         "open": np.arange(50) % 2 == 0, IT: np.append(generator.normal(size=49), np.nan)},
        1.7e9 + generator.uniform(size=50),
        {"sample": {"name": "Cu", "µ": [1, 2.5]}, "none": None},
    )  # fmt: skip
    data.to_csv(tmp_path / "scan.csv")
    again = ScanData.from_csv(tmp_path / "scan.csv")
    assert again.metadata == data.metadata
    assert list(again.motor_positions) == [X]
    np.testing.assert_array_equal(again.timestamps, data.timestamps)
    for name, values in {**data.motor_positions, **data.detector_readings}.items():
        found = {**again.motor_positions, **again.detector_readings}[name]
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def test_an_empty_table(tmp_path: Path):
    ScanData({X: []}, {I0: []}, []).to_csv(tmp_path / "x.csv")  # type: ignore[dict-item,arg-type]
    assert len(ScanData.from_csv(tmp_path / "x.csv")) == 0


def test_what_is_no_table_is_named(tmp_path: Path):
    for number, text in enumerate(("", "a,b\n1,2\n", "# {}\ntimestamp\n1\n", "# 3\n")):
        (tmp_path / f"{number}.csv").write_text(text)
        with pytest.raises(FileFormatError, match=f"{number}.csv is no table of a scan"):
            ScanData.from_csv(tmp_path / f"{number}.csv")
    images = ScanData({}, {"image": np.zeros((2, 3, 3))}, [1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'image' has an array per point"):
        images.to_csv(tmp_path / "x.csv")


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ConfigurationError, match="3 time stamps and an array of shape"):
        ScanData({X: np.arange(2)}, {}, np.arange(3.0))


# --- files by hand ------------------------------------------------------------------------------


def test_a_line_by_hand(tmp_path: Path):
    path = tmp_path / "new" / "scan.nxs"
    with NeXusWriter(path) as writer:
        writer.write_scan(line(sample={"name": "Si"}), title="Silicon")
        writer.add_metadata("night shift/operator", "µ")
        writer.add_metadata("ring", {"current": 350.5, "modes": ["a", "b"]})
        writer.add_metadata("title", "mine")
        writer.add_metadata("count", 1)
        writer.add_metadata("count", 2)
        assert not path.exists()
    assert writer.files == [path]
    with h5py.File(path) as file:
        entry = file["entry"]
        assert file.attrs["default"] == "entry"
        assert entry["title"].asstr()[()] == "Silicon"
        assert entry["title_2"].asstr()[()] == "mine"
        assert entry["start_time"].asstr()[()] == "2023-11-14T22:13:20+00:00"
        assert entry["sample/name"].asstr()[()] == "Si"
        assert entry["data"].attrs["signal"] == "i0"
        assert entry["data"].attrs["axes"].tolist() == ["sample_x"]
        np.testing.assert_array_equal(entry["data/itrans"], 1e4 + np.linspace(-10, 10, 21))
        assert entry["data/itrans"].compression == "gzip"
        assert entry["data/itrans"].compression_opts == 1
        np.testing.assert_array_equal(entry["instrument/detector/data"], np.full(21, 1e5))
        assert entry["data/sample_x"].attrs["units"] == "um"
        assert entry["night_shift_operator"].asstr()[()] == "µ"
        assert entry["night_shift_operator"].attrs["original_name"] == "night shift/operator"
        assert entry["ring"].attrs["NX_class"] == "NXcollection"
        assert entry["ring/current"][()] == 350.5
        assert entry["count"][()] == 2
    assert not list(path.parent.glob(".*"))
    assert not list(path.parent.glob("*.part"))


def test_a_spectrum_by_hand(tmp_path: Path):
    xafs().to_nexus(tmp_path / "x.nxs", scan_type="xafs")
    values = spectrum(60)
    with h5py.File(tmp_path / "x.nxs") as file:
        entry = file["entry"]
        assert entry["definition"].asstr()[()] == "NXxas"
        assert entry["element/symbol"].asstr()[()] == "Cu"
        assert entry["edge/name"].asstr()[()] == "K"
        assert entry["edge/energy"][()] == 8979.0
        assert entry["data"].attrs["signal"] == "intensity"
        mut = np.log(values["i0"] / values["itrans"])
        np.testing.assert_allclose(entry["data/intensity"], mut)
        np.testing.assert_array_equal(entry["instrument/source/current"], [351.5])
        np.testing.assert_array_equal(
            entry["instrument/monochromator/energy"], values["mono_energy"]
        )


@pytest.mark.parametrize("snake", [True, False])
@pytest.mark.parametrize("swap", [True, False])
def test_a_mesh_by_hand_is_a_grid(tmp_path: Path, snake: bool, swap: bool):
    mesh(4, 5, snake=snake, swap=swap).to_nexus(tmp_path / "x.nxs", scan_type="mesh")
    with h5py.File(tmp_path / "x.nxs") as file:
        data = file["entry/data"]
        assert data.attrs["axes"].tolist() == ["sample_y", "sample_x"]
        expected = 100.0 * np.arange(4)[:, None] + np.arange(5)
        np.testing.assert_array_equal(data["i0"], expected)
        np.testing.assert_allclose(data["sample_x"], 10.0 - np.arange(5), atol=0.02)


def test_points_on_no_grid_are_found_on_none():
    generator = np.random.default_rng(1)
    assert find_mesh(generator.normal(size=20), generator.normal(size=20)) is None
    assert find_mesh(np.arange(20.0), np.arange(20.0)) is None
    assert find_mesh(np.zeros(20), np.arange(20.0)) is None
    assert find_mesh(np.arange(3.0), np.arange(3.0)) is None


def test_a_large_scan_is_chunked_and_small_on_disk(tmp_path: Path):
    data = ScanData(
        {X: np.linspace(0, 1, 100_000)},
        {"image": np.zeros((100_000, 4), "u2"), I0: np.ones(100_000)},
        np.arange(100_000.0),
    )
    data.to_nexus(tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs") as file:
        assert file["entry/data/i0"].chunks is not None
        assert file["entry/data/i0"].shape == (100_000,)
        assert file["entry/instrument/image/data"].dtype == "u2"
        assert file["entry/instrument/image/data"].shape == (100_000, 4)
    assert (tmp_path / "x.nxs").stat().st_size < 100_000 * 12


def test_several_scans_are_entries_whose_links_stay_inside(tmp_path: Path):
    path = tmp_path / "x.h5"
    with NeXusWriter(path) as writer:
        writer.write_scan(line())
    with NeXusWriter(path, mode="a") as writer:
        writer.write_scan(xafs(), scan_type="xafs")
        writer.add_metadata("note", "second")
    with h5py.File(path) as file:
        assert sorted(file) == ["entry", "entry_2"]
        second = file["entry_2"]
        assert second["note"].asstr()[()] == "second"
        home = second["energy"].attrs["target"]
        assert home == "/entry_2/instrument/monochromator/energy"
        assert file[home] == second["data/energy"]
        assert "note" not in file["entry"]


def test_metadata_go_to_the_latest_entry_or_one_of_their_own(tmp_path: Path):
    path = tmp_path / "x.nxs"
    with NeXusWriter(path) as writer:
        writer.add_metadata("note", "no scan")
    with h5py.File(path, "r+") as file:
        assert file["entry"].attrs["NX_class"] == "NXentry"
        assert file["entry/note"].asstr()[()] == "no scan"
        for number in range(2, 11):
            file.create_group(f"entry_{number}")
    with NeXusWriter(path, mode="a") as writer:
        writer.add_metadata("note", "tenth")
    with h5py.File(path) as file:
        assert [name for name in file if "note" in file[name]] == ["entry", "entry_10"]


def test_modes(tmp_path: Path):
    path = tmp_path / "x.nxs"
    line(5).to_nexus(path)
    with pytest.raises(StorageError, match="exists already"):
        NeXusWriter(path, mode="w-")
    with NeXusWriter(filename=path, mode="w", compression=1) as writer:
        writer.write_scan(scan_data=line(7), title=None, scan_type="linear")
    with h5py.File(path) as file:
        assert file["entry/data/i0"].shape == (7,)
    path.write_text("no")
    with pytest.raises(FileFormatError, match="no HDF5 file"):
        NeXusWriter(path, mode="a")
    assert path.read_text() == "no"
    with pytest.raises(ConfigurationError, match="mode must be one of"):
        NeXusWriter(path, mode="r")  # type: ignore[arg-type]


def test_file_and_directory_are_told_apart(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="for the documents of runs give NeXusWriter a d"):
        NeXusWriter(tmp_path / "x.nxs")("start", {})
    with pytest.raises(ConfigurationError, match="write_scan needs a file"):
        NeXusWriter(tmp_path / "folder").write_scan(line())
    (tmp_path / "folder.nxs").mkdir()
    with pytest.raises(ConfigurationError, match="add_metadata needs a file"):
        NeXusWriter(tmp_path / "folder.nxs").add_metadata("a", 1)
    with NeXusWriter(tmp_path / "plain", mode="w") as writer:
        writer.write_scan(line())
    assert (tmp_path / "plain").is_file()


def test_what_cannot_be_written_is_named(tmp_path: Path):
    writer = NeXusWriter(tmp_path / "x.nxs")
    writer.add_metadata("early", 5)
    with pytest.raises(ConfigurationError, match="scan_type must be one of"):
        writer.write_scan(line(), scan_type="spiral")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is None"):
        writer.add_metadata("x", None)
    with pytest.raises(ConfigurationError, match="must be text"):
        writer.add_metadata("", 1)
    writer.write_scan(line())
    writer.close()
    writer.close()
    with pytest.raises(StorageError, match="closed already"):
        writer.write_scan(line())
    with h5py.File(tmp_path / "x.nxs") as file:
        assert file["entry/early"][()] == 5
