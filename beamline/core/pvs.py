"""The process variables of the beamline: one table that the IOC, the devices and the docs read.

Names are suffixes; the prefix (``BL02:`` by default) is configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AREA_DETECTOR",
    "FLYER",
    "FLYER_ARRAYS",
    "FLYER_POINTS",
    "MACHINE",
    "PVS",
    "RING_LOLO",
    "SCALER",
    "SCALER_CHANNELS",
    "PVSpec",
    "spec",
]

Record = Literal["ai", "ao", "bi", "bo", "mbbo", "motor"]


@dataclass(frozen=True)
class PVSpec:
    """One process variable.

    Attributes
    ----------
    suffix
        Name without the prefix, for example ``MONO:ENERGY``.
    record
        EPICS record type.
    units
        EGU of the record; empty for dimensionless and enumerated values.
    low, high
        Range: soft limits of a motor, drive limits of an output, display range of an input.
    precision
        Decimals that a display should show (PREC).
    description
        DESC of the record, at most 40 characters.
    enum
        State names of bi, bo and mbbo records (those of an mbbo are known when it connects).
    writable
        False for machine values that a user of the beamline only reads.
    """

    suffix: str
    record: Record
    units: str
    low: float
    high: float
    precision: int
    description: str
    enum: tuple[str, ...] = ()
    writable: bool = False


PVS: tuple[PVSpec, ...] = (
    PVSpec("RING:CURRENT", "ai", "mA", 0.0, 400.0, 3, "Storage ring current"),
    PVSpec(
        "MONO:ENERGY",
        "motor",
        "eV",
        4000.0,
        20000.0,
        3,
        "Si(111) monochromator energy",
        writable=True,
    ),
    PVSpec("SAMPLE:X", "motor", "um", -10000.0, 10000.0, 2, "Sample horizontal", writable=True),
    PVSpec("SAMPLE:Y", "motor", "um", -10000.0, 10000.0, 2, "Sample vertical", writable=True),
    PVSpec("SAMPLE:Z", "motor", "um", -5000.0, 5000.0, 2, "Sample along the beam", writable=True),
    PVSpec("SAMPLE:THETA", "motor", "deg", -180.0, 180.0, 4, "Sample rotation", writable=True),
    PVSpec(
        "DET:TTH",
        "motor",
        "deg",
        -5.0,
        150.0,
        4,
        "2-theta arm of the point detector",
        writable=True,
    ),
    PVSpec("DET:I0", "ai", "counts", 0.0, 1e12, 0, "Incident intensity"),
    PVSpec("DET:IT", "ai", "counts", 0.0, 1e12, 0, "Transmitted intensity"),
    PVSpec("DET:IF", "ai", "counts", 0.0, 1e12, 0, "Fluorescence intensity"),
    PVSpec("DET:IR", "ai", "counts", 0.0, 1e12, 0, "Intensity behind the reference foil"),
    PVSpec("DET:XRD", "ai", "counts", 0.0, 1e12, 0, "Diffracted intensity at 2-theta"),
    PVSpec("DET:EXPOSURE", "ao", "s", 1e-4, 1000.0, 4, "Counting time", writable=True),
    PVSpec("VACUUM:PRESSURE", "ai", "mbar", 1e-10, 1e-8, 12, "Vacuum pressure"),
    PVSpec("HUTCH:TEMP", "ai", "degC", 20.0, 26.0, 3, "Hutch temperature"),
    PVSpec("SHUTTER:STATUS", "bi", "", 0, 1, 0, "Photon shutter state", ("Closed", "Open")),
    PVSpec(
        "SHUTTER:CMD", "bo", "", 0, 1, 0, "Photon shutter command", ("Close", "Open"), writable=True
    ),
    PVSpec("ATTEN:FACTOR", "ao", "", 0.0, 1.0, 6, "Transmission of the attenuator", writable=True),
    PVSpec("SAMPLE:SELECT", "mbbo", "", 0, 15, 0, "Sample in the beam", writable=True),
)

#: At or below this there is no beam: the ring is in a major alarm (mA).
RING_LOLO = 10.0
#: Scaler record; its channels S1… are the time base and then these PVs, in this order.
SCALER = "SCALER1"
SCALER_CHANNELS: tuple[str, ...] = ("time", "DET:I0", "DET:IT", "DET:IF", "DET:IR", "DET:XRD")
#: Area detector: ``AD1:cam1:…``, ``AD1:HDF1:…``, ``AD1:image1:…``.
AREA_DETECTOR = "AD1"
#: Areas of the machine and of the building: nobody at the beamline writes there.
MACHINE: tuple[str, ...] = ("RING:", "VACUUM:", "HUTCH:")
#: Fly scans: ``FLY1:Execute``, …; the most points of one scan; the waveforms of a block of points,
#: in the order in which the device server sends them, and their units.
FLYER = "FLY1"
FLYER_POINTS = 1_000_000
FLYER_ARRAYS: Mapping[str, str] = {
    "Time": "s",
    "Position": "",
    "Energy": "eV",
    "I0": "counts",
    "IT": "counts",
    "IF": "counts",
    "IR": "counts",
    "XRD": "counts",
}

_BY_SUFFIX = {pv.suffix: pv for pv in PVS}


def spec(suffix: str) -> PVSpec:
    """Return the table's row for a suffix such as ``MONO:ENERGY``; KeyError if there is none."""
    return _BY_SUFFIX[suffix]
