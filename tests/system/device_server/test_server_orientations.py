"""What the device server says about the crystal of a still agrees with the spots on it."""

import numpy as np
import pytest

from beamline.core.errors import DeviceServerError
from beamline.core.units import HC
from ioc.stills import SimulatedStills

pytestmark = pytest.mark.system


def test_the_orientation_indexes_every_spot():
    with SimulatedStills(seed=5, energy=9800.0, settings={"hit_probability": 0.6}) as simulated:
        stills = list(simulated.take(12))
        cell, found = simulated.truth["crystal"], simulated.truth["detector"]
        with pytest.raises(DeviceServerError, match="INVALID_VALUE"):
            simulated._rotation(12)
    with_crystal = [still for still in stills if still.rotation is not None]
    assert 1 <= len(with_crystal) < 12
    axes = np.diag([cell["a"], cell["b"], cell["c"]])  # tetragonal: a along x, b along y
    for still in stills:
        assert (still.rotation is None) == (len(still.all_spots) == 0)
    for still in with_crystal:
        rotation = still.rotation
        assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        k = still.energy_eV / HC
        px = (still.all_spots[:, :2] - found["beam_centre_px"]) * found["pixel_m"]
        out = np.c_[px, np.full(len(px), found["distance_m"])]
        q = k * (out / np.linalg.norm(out, axis=1)[:, None] - [0.0, 0.0, 1.0])
        hkl = (q @ rotation) @ axes
        # A reflection has a size in reciprocal space, some 4 % of the distance to the next one.
        assert np.abs(hkl - np.rint(hkl)).max() < 0.1
        assert len(np.unique(np.rint(hkl), axis=0)) == len(hkl) > 20
