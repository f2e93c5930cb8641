"""A real run of each kind, from the device server to the file, before both validators and silx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexus_validators import COMMUNITY, OFFICIAL, Validators, default_plot

from beamline.core.units import HC
from beamline.plans import linear_scan, mesh_scan, stills, xafs_scan
from callbacks.nexus import NeXusWriter
from callbacks.nxsas import Serializer

pytestmark = pytest.mark.system


def plans(bl: Any) -> dict[str, Any]:
    """Plan of each kind."""
    counters = [bl.counters]
    # Any detector with frames and a geometry will do for the definition.
    saxs = {"nexus": {"definition": "NXsas"}}
    return {
        "xafs": xafs_scan(bl, "Cu", regions=[(-50, 50, 5), (50, 100, 10)], dwell=0.05),
        "powder": linear_scan(counters, bl.det.tth, 20.0, 30.0, 11, exposure=0.05),
        "line": linear_scan(counters, bl.sample.x, -50, 50, 5, exposure=0.05),
        "mesh": mesh_scan(
            counters, bl.sample.y, -20, 20, 2, bl.sample.x, -20, 20, 3, exposure=0.05
        ),
        "stills": stills(bl.area_detector, 2, exposure=0.01),
        "saxs": stills(bl.area_detector, 3, exposure=0.01, md=saxs),
    }


DEFINITIONS = {"xafs": "NXxas", "powder": "NXmonopd", "saxs": "NXsas"}


@pytest.mark.parametrize("kind", ["xafs", "powder", "line", "mesh", "stills", "saxs"])
def test_a_real_run_is_a_valid_file(
    bl: Any, engine: Any, tmp_path: Path, validators: dict[str, Validators], kind: str
):
    writer = NeXusWriter(tmp_path / "nexus")
    engine.subscribe(writer)
    with Serializer(tmp_path / "exported") as serializer:
        engine.subscribe(serializer)
        engine(plans(bl)[kind])
    (path,) = writer.files
    (exported,) = serializer.artifacts["stream_data"]
    definition = DEFINITIONS.get(kind)
    for file_path in (path, exported):
        with h5py.File(file_path) as file:
            stated = file["entry"].get("definition")
            assert (None if stated is None else stated.asstr()[()]) == definition
        for definitions in (OFFICIAL, COMMUNITY):
            validator = validators[definitions]
            if definition is None:
                assert validator.base_classes(file_path).errors == []
            else:
                verdict = validator.application(file_path, definition)
                assert verdict.errors == []
                assert verdict.warnings == []
    plot = default_plot(path)
    with h5py.File(path) as file:
        check = {"powder": check_powder, "saxs": check_saxs}.get(kind)
        if check is not None:
            check(bl, file, plot)


def check_powder(bl: Any, file: Any, plot: Any) -> None:
    """The angles are those of the arm, the counts integers, the wavelength that of the beam."""
    assert plot["axes_names"] == ["polar_angle"]
    np.testing.assert_allclose(plot["axes"][0], np.linspace(20, 30, 11), atol=0.01)
    assert plot["signal"].dtype.kind == "i"
    energy = file["entry/instrument/monochromator/energy"][()]
    wavelength = file["entry/instrument/crystal/wavelength"]
    np.testing.assert_allclose(wavelength, HC / energy)
    assert wavelength.attrs["units"] == "angstrom"
    assert file["entry/sample/rotation_angle"].shape == (2,)


def check_saxs(bl: Any, file: Any, plot: Any) -> None:
    """The geometry is that of the detector."""
    assert plot["is_stack"]
    assert plot["signal"].shape[0] == 3
    detector = file["entry/instrument/detector"]
    assert detector["distance"][()] == pytest.approx(1e-3 * bl.area_detector.distance.get())
    assert detector["x_pixel_size"][()] == pytest.approx(bl.area_detector.pixel_x.get())
    assert detector["distance"].attrs["units"] == "m"
    assert detector["count_time"][()] == pytest.approx(0.01)
    wavelength = file["entry/instrument/monochromator/wavelength"][()]
    np.testing.assert_allclose(wavelength, HC / bl.mono.energy.position, rtol=1e-4)
