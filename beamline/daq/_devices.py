"""Devices for Bluesky plans that speak the line protocol: no EPICS in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beamline.core.errors import BeamLostError, DetectorError, DeviceServerError, MotionError
from beamline.core.pvs import RING_LOLO, spec
from beamline.core.units import SI111_D_SPACING
from beamline.daq.client import DeviceClient
from beamline.nexus.names import nexus_name
from beamline.nexus.scan import data_key

__all__ = ["ServerBeamline", "ServerCounters", "ServerMotor", "document_key"]

_POLL = 0.002
_MOVE_TIMEOUT = 600.0
_SHUTTER_TIMEOUT = 10.0
_BASELINE = (
    "MONO:ENERGY", "SAMPLE:X", "SAMPLE:Y", "SAMPLE:Z", "SAMPLE:THETA", "DET:TTH", "RING:CURRENT",
)  # fmt: skip


def document_key(pv: str) -> tuple[str, str | None]:
    """Give data key and unit of a PV: a valid NeXus name that event-model takes as well."""
    key, units = data_key(pv)
    return nexus_name(key.replace(".", "_")), units


class _Done:
    """Bluesky's status of something that is done by a thread."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def __str__(self) -> str:
        # The reason in the stop document, when this has failed.
        return str(self._future.exception()) if self.done else "not done yet"

    @property
    def done(self) -> bool:
        return self._future.done()

    @property
    def success(self) -> bool:
        return self.done and self._future.exception() is None

    def add_callback(self, callback: Callable[[Any], None]) -> None:
        self._future.add_done_callback(lambda _: callback(self))

    def exception(self, timeout: float | None = 0.0) -> BaseException | None:
        return self._future.exception(timeout)

    def wait(self, timeout: float | None = None) -> None:
        self._future.result(timeout)


class _Device:
    """A part of a beamline; `root` is how plans find the whole."""

    parent = None

    def __init__(self, beamline: ServerBeamline, name: str) -> None:
        self.root = beamline
        self.name = name

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}


class ServerMotor(_Device):
    """A motor of the device server."""

    def __init__(self, beamline: ServerBeamline, pv: str) -> None:
        key, units = document_key(pv)
        super().__init__(beamline, key)
        self.pv = pv
        try:
            precision = spec(pv.removeprefix(beamline.prefix)).precision
        except KeyError:
            precision = 3
        #: How near to the target it must come.
        self._deadband = 10.0**-precision
        self.egu = units or ""
        self._setpoint: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Soft limits."""
        client = self.root.client
        return client.get(f"{self.pv}.LLM"), client.get(f"{self.pv}.HLM")

    @property
    def position(self) -> float:
        """Where it stands."""
        return self.root.client.get(f"{self.pv}.RBV")

    def set(self, position: float) -> _Done:
        """Move; done when it is there, failed when it comes to rest elsewhere."""
        target = float(position)
        self.root.client.request(f"MOVE:{self.pv}:{target!r}")
        self._setpoint = target
        return self.root.run(lambda: self._wait(target))

    def _wait(self, target: float) -> None:
        deadline = time.monotonic() + _MOVE_TIMEOUT
        while self.root.client.moving(self.pv):
            if time.monotonic() > deadline:
                raise MotionError(
                    f"{self.pv} still moves after {_MOVE_TIMEOUT:g} s: it stands at "
                    f"{self.position}."
                )
            time.sleep(_POLL)
        reached = self.position
        if not abs(reached - target) <= self._deadband:
            raise MotionError(
                f"{self.pv} was sent to {target:g} {self.egu} and its readback says {reached:g}: "
                "it was stopped or moved by somebody else, or its encoder is wrong."
            )

    def stop(self, *, success: bool = False) -> None:  # noqa: ARG002  (bluesky's protocol)
        """Brake."""
        self.root.client.request(f"MSTOP:{self.pv}")

    def read(self) -> dict[str, Any]:
        """Read back."""
        setpoint = f"{self.name}_user_setpoint"
        position = self.position
        wanted = position if self._setpoint is None else self._setpoint
        now = time.time()
        return {
            self.name: {"value": position, "timestamp": now},
            setpoint: {"value": wanted, "timestamp": now},
        }

    def describe(self) -> dict[str, Any]:
        """Describe the readback and the setpoint."""
        return {
            self.name: _number(f"{self.pv}.RBV", self.egu),
            f"{self.name}_user_setpoint": _number(self.pv, self.egu),
        }

    @property
    def hints(self) -> dict[str, Any]:
        """The readback is what is plotted."""
        return {"fields": [self.name]}


class _Exposure:
    """The counting time, as plans set it."""

    limits = (1e-4, 1000.0)

    def __init__(self, beamline: ServerBeamline, pv: str) -> None:
        self.root = beamline
        self.name = "exposure"
        self.parent = None
        self.setpoint_pvname = pv

    def get(self) -> float:
        return self.root.client.get(self.setpoint_pvname)

    def set(self, value: float) -> _Done:
        return self.root.run(lambda: self.root.client.put(self.setpoint_pvname, float(value)))


class ServerCounters(_Device):
    """Counters (or other PVs) that are read together: one exposure for all of them."""

    def __init__(self, beamline: ServerBeamline, pvs: Sequence[str]) -> None:
        super().__init__(beamline, "counters")
        self.pvs = list(pvs)
        self._keys = {pv: document_key(pv) for pv in self.pvs}
        self.exposure = _Exposure(beamline, beamline.pv("DET:EXPOSURE"))
        self._reading: dict[str, Any] = {}

    def trigger(self) -> _Done:
        """Count."""
        return self.root.run(self._count)

    def _count(self) -> None:
        pvs = [*self.pvs, self.exposure.setpoint_pvname, *self.root.conditions]
        values = self.root.client.get_many(pvs)
        now = time.time()
        for pv, value in zip(pvs, values, strict=True):
            if math.isnan(value):
                raise DetectorError(f"{pv} reads nothing: the device server says NaN; is it dead?")
        values, beam = values[: len(self.pvs) + 1], values[len(self.pvs) + 1 :]
        self.root.check_beam(beam)
        names = [*(key for key, _ in self._keys.values()), "exposure"]
        self._reading = {
            name: {"value": value, "timestamp": now}
            for name, value in zip(names, values, strict=True)
        }

    def read(self) -> dict[str, Any]:
        """Return the latest count."""
        return self._reading

    def describe(self) -> dict[str, Any]:
        """Describe the counts and the counting time."""
        described = {key: _number(pv, units or "") for pv, (key, units) in self._keys.items()}
        return {**described, "exposure": _number(self.exposure.setpoint_pvname, "s")}

    @property
    def hints(self) -> dict[str, Any]:
        """The counts are what is plotted."""
        return {"fields": [key for key, _ in self._keys.values()]}


class _Shutter(_Device):
    """The beam shutter: "Open" or "Close"."""

    def get(self) -> str:
        return "Open" if self.root.client.get(self.root.pv("SHUTTER:STATUS")) else "Close"

    def set(self, value: str) -> _Done:
        wanted = 1.0 if value == "Open" else 0.0

        def travel() -> None:
            client = self.root.client
            client.put(self.root.pv("SHUTTER:CMD"), wanted)
            deadline = time.monotonic() + _SHUTTER_TIMEOUT
            while client.get(self.root.pv("SHUTTER:STATUS")) != wanted:
                if time.monotonic() > deadline:
                    raise MotionError(
                        f"{self.root.pv('SHUTTER:STATUS')} is not {wanted:g} after "
                        f"{_SHUTTER_TIMEOUT:g} s."
                    )
                time.sleep(_POLL)

        return self.root.run(travel)


class _Surroundings(_Device):
    """Motors and machine, read before and after each scan."""

    def __init__(self, beamline: ServerBeamline) -> None:
        super().__init__(beamline, "surroundings")
        self._pvs = {
            beamline.pv(suffix): beamline.pv(suffix) + ("" if "RING" in suffix else ".RBV")
            for suffix in _BASELINE
            if beamline.pv(suffix) in beamline.present
        }

    def read(self) -> dict[str, Any]:
        values = self.root.client.get_many(list(self._pvs.values()))
        now = time.time()
        return {
            document_key(pv)[0]: {"value": value, "timestamp": now}
            for pv, value in zip(self._pvs, values, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        return {
            document_key(pv)[0]: _number(source, document_key(pv)[1] or "")
            for pv, source in self._pvs.items()
        }


class _Selection:
    """Which sample is in the beam."""

    def __init__(self, beamline: ServerBeamline) -> None:
        self._beamline = beamline

    def get(self) -> str:
        names = self._beamline.client.request("SAMPLES").split(",")
        index = int(self._beamline.client.get(self._beamline.pv("SAMPLE:SELECT")))
        return names[index] if index < len(names) and names[index] else "empty"


class _Part:
    """A named part of the beamline, as plans look for it."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


class ServerBeamline:
    """What plans want to know of a beamline, over one connection.

    Parameters
    ----------
    client
        The connection.
    prefix
        Of all PVs.
    detectors
        PVs that the counters read.
    energy_pv
        PV of the monochromator; default: that of the prefix.
    """

    name = "beamline"
    simulated = True

    def __init__(
        self,
        client: DeviceClient,
        prefix: str,
        detectors: Sequence[str],
        energy_pv: str | None = None,
    ) -> None:
        self.client = client
        self.prefix = prefix
        self.present = frozenset(client.pvs(f"{prefix}*"))
        #: What tells whether there is beam; read at the moment of each count.
        self.conditions = [
            pv for pv in (self.pv("RING:CURRENT"), self.pv("SHUTTER:STATUS")) if pv in self.present
        ]
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="DeviceClient")
        self.counters = ServerCounters(self, detectors)
        self.shutter = _Shutter(self, "shutter")
        self.sample = _Part(select=_Selection(self))
        self.mono = _Part(
            energy=ServerMotor(self, energy_pv or self.pv("MONO:ENERGY")),
            crystal_type="Si",
            reflection=(1, 1, 1),
            d_spacing=SI111_D_SPACING,
        )
        self.baseline: tuple[Any, ...] = (_Surroundings(self),)

    def pv(self, suffix: str) -> str:
        """Full name of a PV."""
        return f"{self.prefix}{suffix}"

    def motor(self, pv: str) -> ServerMotor:
        """Return the motor with this PV.

        Raises
        ------
        DeviceServerError
            If the server has no such motor.
        """
        if f"{pv}.DMOV" not in self.client.pvs(f"{pv}.DMOV"):
            raise DeviceServerError(
                f"{pv} is no motor of the device server: it has no {pv}.DMOV ('LIST' names all)."
            )
        return ServerMotor(self, pv)

    def check_beam(self, values: Sequence[float]) -> None:
        """Raise `BeamLostError` if the values of `conditions` say that a count had no beam."""
        for pv, value in zip(self.conditions, values, strict=True):
            if pv.endswith("RING:CURRENT") and value <= RING_LOLO:
                raise BeamLostError(f"the run has no beam: {pv} is {value:g} mA.")
            if pv.endswith("SHUTTER:STATUS") and not value:
                raise BeamLostError(
                    f"the run has no beam: {pv} is closed, and the run had opened it."
                )

    def run(self, work: Callable[[], None]) -> _Done:
        """Do something in a thread."""
        return _Done(self._threads.submit(work))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=True)


def _number(source: str, units: str) -> Mapping[str, Any]:
    described: dict[str, Any] = {"source": f"PV:{source}", "dtype": "number", "shape": []}
    return {**described, "units": units} if units else described
