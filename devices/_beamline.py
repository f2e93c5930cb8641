"""The whole beamline as one device."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, NoReturn

from ophyd import Device
from ophyd.signal import EpicsSignalBase

from beamline.core.errors import ConfigurationError, ConnectionLostError, DetectorError
from devices._area_detector import AreaDetector
from devices._axis import Axis
from devices._component import Named
from devices._counters import IonChambers
from devices._flyer import Flyer
from devices._machine import Attenuator, Environment, Ring, Shutter
from devices._motors import DetectorArm, Monochromator, SampleStage
from devices._signals import channel_access_errors

__all__ = ["Beamline"]

#: Seconds between two attempts to hear of connected PVs what ophyd has missed.
_PATIENCE = 1.0


class Beamline(Device):
    """All devices of the beamline.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    name
        Name of the device itself; the parts have names of their own (``mono``, ``sample``, …), and
        so have the data keys.
    frames_dir
        Folder for the frames of the area detector; see `AreaDetector.directory`.

    Examples
    --------
    >>> bl = Beamline("BL02:")
    >>> bl.connect(timeout=10)
    >>> RE(linear_scan([bl.counters], bl.sample.x, -1000, 1000, 41))

    After ``RE.halt()``, which leaves everything as it stands:

    >>> bl.make_safe()
    """

    ring = Named(Ring, "RING:", name="ring")
    shutter = Named(Shutter, "SHUTTER:", name="shutter")
    attenuator = Named(Attenuator, "ATTEN:", name="attenuator")
    mono = Named(Monochromator, "MONO:", name="mono")
    sample = Named(SampleStage, "SAMPLE:", name="sample")
    det = Named(DetectorArm, "DET:", name="det")
    counters = Named(IonChambers, "SCALER1", name="counters", labels=("detectors",))
    area_detector = Named(AreaDetector, "AD1:", name="ad1", labels=("detectors",))
    flyer = Named(Flyer, "FLY1:", name="flyer")
    environment = Named(Environment, "", name="environment")

    def __init__(
        self,
        prefix: str = "BL02:",
        *,
        name: str = "beamline",
        frames_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_control_layer()
        super().__init__(prefix, name=name, **kwargs)
        if frames_dir is not None:
            self.area_detector.directory = Path(frames_dir)

    @property
    def baseline(self) -> tuple[Device, ...]:
        """What is recorded before and after every run."""
        return (
            self.mono,
            self.sample,
            self.det,
            self.ring,
            self.shutter,
            self.attenuator,
            self.environment,
        )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All motors."""
        return tuple(device for _, device in self.walk_subdevices() if isinstance(device, Axis))

    @property
    def simulated(self) -> bool:
        """Whether there is no real beam: what the area detector says of itself."""
        return self.area_detector.simulated

    def connect(self, timeout: float = 30.0) -> Beamline:
        """Wait until every PV is connected; return the beamline itself.

        Raises
        ------
        ConnectionLostError
            Naming the PVs that are not there after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        signals = [walk.item for walk in self.walk_signals()]
        urge = time.monotonic() + _PATIENCE
        while missing := [signal for signal in signals if not signal.connected]:
            if time.monotonic() > deadline:
                raise ConnectionLostError(_not_connected(missing, len(signals), timeout))
            if time.monotonic() > urge:
                _urge(missing, deadline)
                urge = time.monotonic() + _PATIENCE
            time.sleep(0.02)
        # What is left is ophyd's own bookkeeping: the first values of subscriptions.
        try:
            self.wait_for_connection(timeout=max(deadline - time.monotonic(), 2.0))
        except TimeoutError as error:
            raise ConnectionLostError(
                f"the PVs of {self.prefix} are connected but some sent no value within "
                f"{timeout:g} s: {' '.join(str(error).split())}"
            ) from None
        return self

    def trigger(self) -> NoReturn:
        """Refuse: read as a whole, the events of a run would refer to frames that nobody took.

        Raises
        ------
        DetectorError
            Always; it names the devices to give to the plan instead.
        """
        raise DetectorError(
            f"{self.name} can't be triggered as a whole, the frames of {self.area_detector.name} "
            "would be lost: give the plan its detectors, such as bl.area_detector or bl.counters."
        )

    def make_safe(self) -> list[str]:
        """Stop motors and detectors and close the shutter, at once and without a plan.

        This is what to do after ``RE.halt()``: bluesky lets no plan clean up then, so the shutter
        is still open.

        Returns
        -------
        list of str
            What could not be done, one sentence each; empty if all is well.
        """
        problems = []
        moving: list[Any] = [self.flyer, *self.axes, self.counters, self.area_detector]
        for device in moving:
            try:
                device.stop()
            except Exception as error:  # noqa: BLE001  (the others must be stopped as well)
                problems.append(f"{device.name} was not stopped: {error}")
        try:
            self.shutter.set("Close").wait(self.shutter.travel_timeout)
        except Exception as error:  # noqa: BLE001
            problems.append(f"{self.shutter.name} was not closed: {error}")
        return problems


def _urge(signals: list[Any], deadline: float) -> None:
    """Ask once more for what ophyd and pyepics hear only once.

    A signal is connected when the channel, its access rights and its metadata are known. Each of
    these comes by a callback that finds nobody if it is early, and none of them comes twice.
    """
    from epics import ca

    for signal in signals:
        if not isinstance(signal, EpicsSignalBase) or time.monotonic() > deadline:
            continue
        with contextlib.suppress(TimeoutError, *channel_access_errors()):
            answered = True
            for pv in _channels(signal):
                if not pv.connected and ca.isConnected(pv.chid):
                    pv.force_connect()
                answered &= pv.connected
                if not pv.connected:
                    continue
                if not signal._connection_states[pv.pvname]:  # noqa: SLF001
                    signal._pv_connected(pv.pvname, True, pv)  # noqa: SLF001
                if not signal._access_rights_valid[pv.pvname]:  # noqa: SLF001
                    rights = ca.read_access(pv.chid), ca.write_access(pv.chid)
                    signal._pv_access_callback(*map(bool, rights), pv)  # noqa: SLF001
            if answered:
                signal._set_event_if_ready()  # noqa: SLF001
                signal.wait_for_connection(timeout=1.0)


def _channels(signal: EpicsSignalBase) -> list[Any]:
    """Return the pyepics PVs of a signal, each once."""
    read, write = signal._read_pv, getattr(signal, "_write_pv", None)  # noqa: SLF001
    return [read] if write is None or write is read else [read, write]


def _not_connected(missing: list[Any], total: int, timeout: float) -> str:
    names = []
    for signal in missing:
        for attribute in ("pvname", "setpoint_pvname"):
            with contextlib.suppress(AttributeError):
                names.append(getattr(signal, attribute))
    names = list(dict.fromkeys(names))
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    addresses = os.environ.get("EPICS_CA_ADDR_LIST", "")
    return (
        f"{len(missing)} of {total} signals are not connected after {timeout:g} s: {shown}; is the "
        f"IOC running, and is its address in EPICS_CA_ADDR_LIST (now {addresses!r})?"
    )


def _check_control_layer() -> None:
    import ophyd

    if ophyd.cl.name != "pyepics":
        raise ConfigurationError(
            f"ophyd uses the control layer {ophyd.cl.name!r} but this beamline needs pyepics: "
            "unset OPHYD_CONTROL_LAYER and check that 'import epics' works."
        )
