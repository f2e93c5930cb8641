"""The groups of motors: monochromator, sample stage, detector arm."""

from __future__ import annotations

from ophyd import Component as Cpt
from ophyd import Device

from beamline.core.units import SI111_D_SPACING
from devices._axis import Axis
from devices._signals import ChoiceSignal

__all__ = ["DetectorArm", "Monochromator", "SampleStage"]


class Monochromator(Device):
    """Si(111) double-crystal monochromator.

    Attributes
    ----------
    energy : Axis
        Photon energy, eV; data key ``mono_energy``.
    crystal_type, reflection, d_spacing
        The crystal, its reflection (h, k, l) and the spacing of its planes (Å).
    """

    energy = Cpt(Axis, "ENERGY", labels=("motors",))

    crystal_type = "Si"
    reflection = (1, 1, 1)
    d_spacing = SI111_D_SPACING


class SampleStage(Device):
    """Sample stage and changer.

    Attributes
    ----------
    x, y, z : Axis
        Position, µm; data keys ``sample_x``, ``sample_y``, ``sample_z``.
    theta : Axis
        Rotation, degrees; data key ``sample_theta``.
    select : ChoiceSignal
        Name of the sample in the beam, one of ``select.choices``; configuration ``sample_select``.
    """

    x = Cpt(Axis, "X", labels=("motors",))
    y = Cpt(Axis, "Y", labels=("motors",))
    z = Cpt(Axis, "Z", labels=("motors",))
    theta = Cpt(Axis, "THETA", labels=("motors",))
    select = Cpt(ChoiceSignal, "SELECT", kind="config")


class DetectorArm(Device):
    """2θ arm of the point detector.

    Attributes
    ----------
    tth : Axis
        Scattering angle, degrees; data key ``det_tth``.
    """

    tth = Cpt(Axis, "TTH", labels=("motors",))
