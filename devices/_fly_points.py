"""The points of a fly scan: blocks of them from the IOC, looked at, and made event pages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from ophyd import Component as Cpt
from ophyd import Device

from beamline.core.errors import ConnectionLostError, DetectorError, MotionError
from beamline.core.pvs import FLYER_ARRAYS
from devices._axis import Axis
from devices._channel_access import ECA_NORMAL, put
from devices._signals import FreshSignal, FreshSignalRO, read_many
from devices._sweep import Sweep

__all__ = ["Block", "FlyPoints", "Page", "describe_number", "make_page"]

#: Seconds that the IOC may take to bring a block of points.
_BLOCK_TIMEOUT = 5.0
#: Waveform of the IOC → data key; position and time are named otherwise.
_KEYS = {
    "Energy": "mono_energy",
    "I0": "i0",
    "IT": "itrans",
    "IF": "ifluor",
    "IR": "irefer",
    "XRD": "idiffr",
}

#: A partial event page: ``data`` and ``timestamps``, each data key → one value per event.
Page = dict[str, Any]
#: Waveform → one value per point; ``stamps``, the time of each, besides.
Block = dict[str, npt.NDArray[np.float64]]


class FlyPoints(Device):
    """The records of the IOC through which the points of its fly scan are read.

    A put to ReadFrom brings the points from that one on into the waveforms.
    """

    start_time = Cpt(FreshSignalRO, "StartTime", kind="omitted", units="s")
    time_scale = Cpt(FreshSignalRO, "TimeScale", kind="omitted")
    read_from = Cpt(FreshSignal, "ReadFrom", kind="omitted")
    block_scan = Cpt(FreshSignalRO, "BlockScan", kind="omitted")
    block_start = Cpt(FreshSignalRO, "BlockStart", kind="omitted")
    block_points = Cpt(FreshSignalRO, "BlockPoints", kind="omitted")
    time_array = Cpt(FreshSignalRO, "Time", kind="omitted")
    position_array = Cpt(FreshSignalRO, "Position", kind="omitted")
    energy_array = Cpt(FreshSignalRO, "Energy", kind="omitted")
    i0_array = Cpt(FreshSignalRO, "I0", kind="omitted")
    itrans_array = Cpt(FreshSignalRO, "IT", kind="omitted")
    ifluor_array = Cpt(FreshSignalRO, "IF", kind="omitted")
    irefer_array = Cpt(FreshSignalRO, "IR", kind="omitted")
    idiffr_array = Cpt(FreshSignalRO, "XRD", kind="omitted")

    def describe_points(self, axis: Axis) -> dict[str, dict[str, Any]]:
        """Describe position, energy and counts of a scan of `axis`, by data key."""
        keys = {axis.name: describe_number(self.position_array, axis.egu)}
        for array, key in _KEYS.items():
            if key not in keys:
                keys[key] = describe_number(self._arrays()[array], FLYER_ARRAYS[array])
        return keys

    def read_block(self, scan: int, first: int) -> Block:
        """Read points from number `first` on, as many as the IOC brings at once.

        Parameters
        ----------
        scan
            Number of the scan that the points must be of.
        first
            Number of the first point, at most that of points taken.

        Raises
        ------
        ConnectionLostError
            If the IOC doesn't answer.
        DetectorError
            If other points came than were asked for.
        """
        what = f"the points of {self.name} from {first} on cannot be read"
        ended = threading.Event()
        status = put(self.read_from.put_channel, first, lambda _: ended.set())
        if status != ECA_NORMAL or not ended.wait(_BLOCK_TIMEOUT):
            raise ConnectionLostError(
                f"{what}: {self.read_from.pvname} did not answer; is the IOC running?"
            )
        arrays = self._arrays()
        number, start, points, began, scale, *samples = read_many(
            [
                self.block_scan,
                self.block_start,
                self.block_points,
                self.start_time,
                self.time_scale,
                *arrays.values(),
            ]
        )
        if (number.value, start.value) != (scan, first):
            raise DetectorError(
                f"{what}: {self.block_start.pvname} is {int(start.value)} of scan "
                f"{int(number.value)}, expected {first} of scan {scan}; does another client read "
                "them?"
            )
        count = int(points.value)
        block = {
            # A waveform with one value comes as that value.
            name: np.atleast_1d(sample.value)[:count] if count else np.empty(0)
            for name, sample in zip(arrays, samples, strict=True)
        }
        block["stamps"] = began.value + block["Time"] / scale.value
        return block

    def examine(
        self, block: Block, first: int, sweep: Sweep | None
    ) -> tuple[int, Exception | None]:
        """Count the points before the first that can't be believed; say what is wrong with it.

        Parameters
        ----------
        block
            As `read_block` gave it for `first`.
        first
            Number of its first point.
        sweep
            Where the axis should have been; unless it is known, positions are believed.
        """
        points = len(block["Time"])
        problem: Exception | None = None
        for name, signal in self._arrays().items():
            dead = np.flatnonzero(~np.isfinite(block[name][:points]))
            if dead.size:
                points = int(dead[0])
                problem = DetectorError(
                    f"{signal.pvname} has no value for point {first + points} of the fly "
                    "scan: the detector reads nothing."
                )
        if sweep is None or not points:
            return points, problem
        wanted = sweep.positions(first, points)
        off = np.abs(block["Position"][:points] - wanted)
        far = np.flatnonzero(off > sweep.longest_step + 2.0 * sweep.axis.tolerance)
        if far.size:
            points = int(far[0])
            problem = MotionError(
                f"{self.position_array.pvname} does not follow the fly scan of {sweep.axis.label}: "
                f"point {first + points} should be at {wanted[points]:.7g} "
                f"{sweep.axis.egu} and is at {block['Position'][points]:.7g}."
            )
        return points, problem

    def _arrays(self) -> dict[str, Any]:
        return {
            "Time": self.time_array,
            "Position": self.position_array,
            "Energy": self.energy_array,
            "I0": self.i0_array,
            "IT": self.itrans_array,
            "IF": self.ifluor_array,
            "IR": self.irefer_array,
            "XRD": self.idiffr_array,
        }


def make_page(block: Block, points: int, axis: Axis, dwell: float) -> Page:
    """Make a partial event page of the first `points` of a block."""
    columns = {axis.name: block["Position"]}
    for array, key in _KEYS.items():
        columns.setdefault(key, block[array])
    stamps = block["stamps"][:points].tolist()
    data = {key: values[:points].tolist() for key, values in columns.items()}
    data["exposure"] = [dwell] * points
    return {"data": data, "timestamps": dict.fromkeys(data, stamps), "time": stamps}


def describe_number(signal: Any, units: str) -> dict[str, Any]:
    """Describe the data key of a number that comes with every point."""
    return {
        "source": f"PV:{signal.pvname}",
        "dtype": "number",
        "dtype_numpy": "<f8",
        "shape": [],
        "units": units,
    }
