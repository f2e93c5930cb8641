"""Conversions against values from outside this project."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamline.core import units


def test_copper_k_alpha():
    # Kα1 of copper: 8047.823 eV, 1.5405929 Å (NIST X-ray transition energies).
    assert units.energy_to_wavelength(8047.823) == pytest.approx(1.5405929, rel=1e-6)


def test_si111_bragg_angle_at_the_copper_edge():
    # asin(1.380796 / (2 × 3.135601))
    assert units.bragg_angle(8979.0) == pytest.approx(12.719, abs=1e-3)


def test_an_energy_below_the_crystal_is_refused():
    with pytest.raises(ValueError, match="lowest energy is 1977"):
        units.bragg_angle(1000.0)


@given(st.floats(1.0, 1e6))
def test_wavelength_and_energy_are_inverse(energy: float):
    assert units.wavelength_to_energy(units.energy_to_wavelength(energy)) == pytest.approx(energy)


@given(st.floats(0.0, 30.0))
def test_k_and_energy_are_inverse(k: float):
    assert units.energy_to_k(units.k_to_energy(k, 9000.0), 9000.0) == pytest.approx(k, abs=1e-5)


def test_k_of_energies_below_the_edge_is_zero():
    k = units.energy_to_k(np.array([8000.0, 9000.0, 9003.80998211]), 9000.0)
    assert k == pytest.approx([0.0, 0.0, 1.0])
