"""Devices for Bluesky plans that speak the line protocol: no EPICS in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beamline.core.errors import DeviceServerError, MotionError
from beamline.core.units import SI111_D_SPACING
from beamline.daq.client import DeviceClient
from beamline.nexus.scan import data_key

__all__ = ["ServerBeamline", "ServerCounters", "ServerMotor"]

_POLL = 0.002
_MOVE_TIMEOUT = 600.0
_SHUTTER_TIMEOUT = 10.0
_BASELINE = (
    "MONO:ENERGY", "SAMPLE:X", "SAMPLE:Y", "SAMPLE:Z", "SAMPLE:THETA", "DET:TTH", "RING:CURRENT",
)  # fmt: skip


class _Done:
    """Bluesky's status of something that is done by a thread."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

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
        key, units = data_key(pv)
        super().__init__(beamline, key)
        self.pv = pv
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
        """Move; done when it is there."""
        self.root.client.request(f"MOVE:{self.pv}:{float(position)!r}")
        self._setpoint = float(position)
        return self.root.run(self._wait)

    def _wait(self) -> None:
        deadline = time.monotonic() + _MOVE_TIMEOUT
        while self.root.client.moving(self.pv):
            if time.monotonic() > deadline:
                raise MotionError(
                    f"{self.pv} still moves after {_MOVE_TIMEOUT:g} s: it stands at "
                    f"{self.position}."
                )
            time.sleep(_POLL)

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
        self._keys = {pv: data_key(pv) for pv in self.pvs}
        self.exposure = _Exposure(beamline, beamline.pv("DET:EXPOSURE"))
        self._reading: dict[str, Any] = {}

    def trigger(self) -> _Done:
        """Count."""
        return self.root.run(self._count)

    def _count(self) -> None:
        pvs = [*self.pvs, self.exposure.setpoint_pvname]
        values = self.root.client.get_many(pvs)
        now = time.time()
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
        present = set(beamline.client.pvs(f"{beamline.prefix}*"))
        self._pvs = {
            beamline.pv(suffix): beamline.pv(suffix) + ("" if "RING" in suffix else ".RBV")
            for suffix in _BASELINE
            if beamline.pv(suffix) in present
        }

    def read(self) -> dict[str, Any]:
        values = self.root.client.get_many(list(self._pvs.values()))
        now = time.time()
        return {
            data_key(pv)[0]: {"value": value, "timestamp": now}
            for pv, value in zip(self._pvs, values, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        return {
            data_key(pv)[0]: _number(source, data_key(pv)[1] or "")
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
        try:
            self.client.moving(pv)
        except DeviceServerError as error:
            raise DeviceServerError(f"{pv} is no motor of the device server: {error}") from None
        return ServerMotor(self, pv)

    def run(self, work: Callable[[], None]) -> _Done:
        """Do something in a thread."""
        return _Done(self._threads.submit(work))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=True)


def _number(source: str, units: str) -> Mapping[str, Any]:
    described: dict[str, Any] = {"source": f"PV:{source}", "dtype": "number", "shape": []}
    return {**described, "units": units} if units else described
