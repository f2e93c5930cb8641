"""A real run of each kind, from the device server to the file, before both validators and silx."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import numpy.typing as npt
import pytest
from bluesky.utils import RunEngineInterrupted
from nexus_validators import BothValidators, complaints, default_plot
from scipy.optimize import curve_fit

from beamline.core.units import HC
from beamline.daq import DeviceClient
from beamline.plans import linear_scan, mesh_scan, stills, xafs_scan
from callbacks.nexus import NeXusWriter
from callbacks.nxsas import Serializer

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

Floats = npt.NDArray[np.float64]


@pytest.fixture
def saxs(bl: Any) -> Iterator[Any]:
    """The area detector, with spheres in the beam."""
    detector = bl.area_detector
    detector.sim_mode.set("SAXS").wait(10)
    yield detector
    detector.sim_mode.set("Still").wait(10)
    detector.sparse.set("Dense").wait(10)


def plans(bl: Any) -> dict[str, Any]:
    """Plan of each kind."""
    counters = [bl.counters]
    return {
        "xafs": xafs_scan(bl, "Cu", regions=[(-50, 50, 10), (50, 100, 25)], dwell=0.05),
        "powder": linear_scan(counters, bl.det.tth, 20.0, 25.0, 6, exposure=0.05),
        "line": linear_scan(counters, bl.sample.x, -50, 50, 3, exposure=0.05),
        "mesh": mesh_scan(
            counters, bl.sample.y, -20, 20, 2, bl.sample.x, -20, 20, 3, exposure=0.05
        ),
        "stills": stills(bl.area_detector, 2, exposure=0.01),
    }


@pytest.mark.parametrize(
    ("kind", "definition"),
    [("xafs", "NXxas"), ("powder", "NXmonopd"), ("line", None), ("mesh", None), ("stills", None)],
)
def test_a_real_run_is_a_valid_file(
    bl: Any,
    engine: Any,
    tmp_path: Path,
    validators: BothValidators,
    kind: str,
    definition: str | None,
):
    writer = NeXusWriter(tmp_path / "nexus")
    engine.subscribe(writer)
    engine(plans(bl)[kind])
    (path,) = writer.files
    check_valid(path, definition, validators)
    plot = default_plot(path)
    if kind == "powder":
        check_powder(path, plot)


def check_valid(path: Path, definition: str | None, validators: BothValidators) -> None:
    """The file claims this definition, and both validators agree."""
    with h5py.File(path) as file:
        stated = file["entry"].get("definition")
        assert (None if stated is None else stated.asstr()[()]) == definition
    if definition is None:
        verdicts = validators.base_classes(path)
        assert [error for verdict in verdicts.values() for error in verdict.errors] == []
    else:
        assert complaints(validators.application(path, definition)) == []


def check_powder(path: Path, plot: Any) -> None:
    """The angles are those of the arm, the counts integers, the wavelength that of the beam."""
    assert plot["axes_names"] == ["polar_angle"]
    np.testing.assert_allclose(plot["axes"][0], np.linspace(20, 25, 6), atol=0.01)
    assert plot["signal"].dtype.kind == "i"
    with h5py.File(path) as file:
        energy = file["entry/instrument/monochromator/energy"][()]
        wavelength = file["entry/instrument/crystal/wavelength"]
        np.testing.assert_allclose(wavelength, HC / energy)
        assert wavelength.attrs["units"] == "angstrom"
        assert file["entry/sample/rotation_angle"].shape == (2,)


def test_a_small_angle_run_is_valid_and_holds_the_radius_of_the_spheres(
    bl: Any,
    saxs: Any,
    simulated: Any,
    engine: Any,
    tmp_path: Path,
    validators: BothValidators,
):
    writer = NeXusWriter(tmp_path / "nexus")
    engine.subscribe(writer)
    with Serializer(tmp_path / "exported") as serializer:
        engine.subscribe(serializer)
        engine(stills(saxs, 4, exposure=0.1))
    (path,) = writer.files
    (exported,) = serializer.artifacts["stream_data"]
    host, port = simulated.address.rsplit(":", 1)
    with DeviceClient(host, int(port)) as client:
        truth = client.truth()["detector"]["saxs"]
    for file_path in (path, exported):
        check_valid(file_path, "NXsas", validators)
        plot = default_plot(file_path)
        assert plot["is_stack"]
        assert plot["signal"].shape[0] == 4
        radius, polydispersity = fit_spheres(*radial_average(file_path))
        assert radius == pytest.approx(truth["radius_A"], rel=0.01)
        assert polydispersity == pytest.approx(truth["polydispersity"], abs=0.01)
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        assert detector["distance"][()] == pytest.approx(1e-3 * saxs.distance.get())
        assert detector["x_pixel_size"][()] == pytest.approx(saxs.pixel_x.get())
        assert detector["count_time"][()] == pytest.approx(0.1)
        wavelength = file["entry/instrument/monochromator/wavelength"][()]
        np.testing.assert_allclose(wavelength, HC / bl.mono.energy.position, rtol=1e-4)


def radial_average(path: Path) -> tuple[Floats, Floats, Floats]:
    """q (1/Å), photons per pixel and unit of solid angle, and their standard errors.

    From what the file says alone: pixels, distance, beam centre and wavelength, with their units.
    """
    with h5py.File(path) as file:
        frames = file["entry/data/data"][()].astype(float)
        instrument = file["entry/instrument"]
        detector = instrument["detector"]
        names = ("distance", "x_pixel_size", "y_pixel_size", "beam_center_x", "beam_center_y")
        assert {detector[name].attrs["units"] for name in names} == {"m"}
        distance, width, height, centre_x, centre_y = (detector[name][()] for name in names)
        assert instrument["monochromator/wavelength"].attrs["units"] == "angstrom"
        wavelength = float(np.mean(instrument["monochromator/wavelength"]))
    assert frames.max() < 65535
    total = frames.sum(axis=0)
    slow, fast = np.indices(total.shape)
    radius = np.hypot(fast * width - centre_x, slow * height - centre_y)
    two_theta = np.arctan(radius / distance)
    q = 4 * np.pi / wavelength * np.sin(two_theta / 2)
    lit = radius > 12 * width  # the beam stop is smaller
    edges = np.linspace(q[lit].min(), q[lit].max(), 150)
    number = np.digitize(q[lit], edges)
    pixels = np.bincount(number, minlength=len(edges) + 1)
    counts = np.bincount(number, total[lit], len(edges) + 1)
    solid = np.bincount(number, np.cos(two_theta[lit]) ** 3, len(edges) + 1)
    places = np.bincount(number, q[lit], len(edges) + 1)
    enough = counts > 20
    return (
        places[enough] / pixels[enough],
        counts[enough] / solid[enough],
        np.sqrt(counts[enough]) / solid[enough],
    )


def fit_spheres(q: Floats, intensity: Floats, errors: Floats) -> tuple[float, float]:
    """Mean radius (Å) and polydispersity of spheres that scatter like this."""
    z = np.linspace(-4, 4, 41)

    def spheres(q: Floats, radius: float, spread: float, forward: float, flat: float) -> Floats:
        weight = np.exp(-z * z / 2) * (1 + spread * z) ** 6
        x = np.outer(q, radius * (1 + spread * z))
        form = (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2
        found: Floats = forward * form @ weight / weight.sum() + flat
        return found

    # Nothing of the truth goes in: Guinier's law at small q gives where to begin.
    small = q < np.quantile(q, 0.15)
    slope, _ = np.polyfit(q[small] ** 2, np.log(intensity[small]), 1)
    begin = [np.sqrt(-5 * slope), 0.05, intensity[small].max(), intensity.min()]
    (radius, spread, *_), _ = curve_fit(
        spheres, q, intensity, begin, errors, bounds=([1, 0, 0, 0], [1e3, 0.24, np.inf, np.inf])
    )
    return float(radius), float(spread)


def test_photons_of_sparse_frames_are_linked_as_they_are(
    saxs: Any, engine: Any, tmp_path: Path, validators: BothValidators, docs: Any
):
    writer = NeXusWriter(tmp_path / "nexus", frames="virtual")
    engine.subscribe(writer)
    saxs.sparse.set("Events").wait(10)
    saxs.sim_mode.set("Still").wait(10)
    engine(stills(saxs, 3, exposure=0.002))
    (path,) = writer.files
    # A list of photons is not what NXsas calls data.
    check_valid(path, None, validators)
    (resource,) = docs.all("stream_resource")
    plot = default_plot(path)
    assert plot["signal_name"] == "event_index"
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        instrument = file["entry/instrument"]
        events = instrument["ad1_image_events"]
        assert events.attrs["NX_class"] == "NXevent_data"
        assert instrument.get("ad1_image_events", getlink=True, getclass=True) is h5py.ExternalLink
        assert "data" not in detector
        ids, index = events["event_id"][()], events["event_index"][()]
        np.testing.assert_array_equal(plot["signal"], index)
        assert len(index) == len(events["event_time_zero"]) == 3
        ny, nx = resource["parameters"]["frame_shape"]
        ends = [*index[1:], len(ids)]
        frames = np.stack(
            [
                np.bincount(ids[first:last], minlength=ny * nx).reshape(ny, nx)
                for first, last in zip(index, ends, strict=True)
            ]
        )
        assert (frames.sum(axis=(1, 2)) > 1000).all()
        assert file["entry/bluesky/streams/primary/ad1_image/frames_referenced"][()] == 3
    for one, other in itertools.combinations(frames, 2):
        assert (one != other).any()


def test_a_point_that_is_taken_again_has_one_frame(bl: Any, engine: Any, tmp_path: Path):
    writer = NeXusWriter(tmp_path / "nexus", frames="virtual")
    engine.subscribe(writer)
    paused = []
    detector = bl.area_detector

    def body() -> Any:
        for number in range(4):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([detector, bl.mono.energy])
            if number == 1 and not paused:
                paused.append(number)
                yield from bps.pause()

    detector.exposure.set(0.01).wait(10)
    with pytest.raises(RunEngineInterrupted):
        engine(bpp.stage_wrapper(bpp.run_wrapper(body()), [detector]))
    engine.resume()
    (path,) = writer.files
    with h5py.File(path) as file:
        log = file["entry/bluesky/streams/primary"]
        assert list(log["seq_num"]) == [1, 2, 3, 4]
        data = file["entry/instrument/ad1_image/data"]
        assert data.is_virtual
        (source,) = {source.file_name for source in data.virtual_sources()}
        frames = data[()]
    with h5py.File(path.parent / source) as file:
        taken = file["entry/data/data"][()]
    assert len(taken) == 5
    np.testing.assert_array_equal(frames, taken[[0, 2, 3, 4]])
