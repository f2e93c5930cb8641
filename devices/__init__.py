"""Ophyd devices of the beamline.

Importing this package loads Channel Access, which reads ``EPICS_CA_*`` once: set them before.
"""

from devices._area_detector import AreaDetector
from devices._axis import Axis, AxisLimitError
from devices._beamline import Beamline
from devices._counters import IonChambers
from devices._flyer import Flyer
from devices._machine import Attenuator, Environment, Ring, Shutter
from devices._motors import DetectorArm, Monochromator, SampleStage
from devices._sweep import Sweep

__all__ = [
    "AreaDetector",
    "Attenuator",
    "Axis",
    "AxisLimitError",
    "Beamline",
    "DetectorArm",
    "Environment",
    "Flyer",
    "IonChambers",
    "Monochromator",
    "Ring",
    "SampleStage",
    "Shutter",
    "Sweep",
]
