"""Scans of the scripting interface: a configuration in, arrays out, Bluesky's plans between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np

from beamline.core.errors import BeamlineError, ConfigurationError
from beamline.daq._devices import ServerBeamline, document_key
from beamline.daq.client import DeviceClient
from beamline.daq.configs import LinearScanConfig, MeshScanConfig, ScanConfig, XAFSScanConfig
from beamline.daq.data import ScanData
from beamline.interrupts import AbortOnInterrupt

__all__ = [
    "LinearScanConfig",
    "MeshScanConfig",
    "ScanConfig",
    "ScanEngine",
    "XAFSScanConfig",
]

Consumer = Callable[[str, Mapping[str, Any]], object]
_KEPT = (
    "uid", "scan_id", "plan_name", "plan_args", "sample", "instrument", "beamline_id", "element",
    "edge", "e0", "mode", "shape", "extents", "snaking", "simulated", "versions",
)  # fmt: skip


class ScanEngine:
    """Runs scans over a connection to a device server.

    The scans are the plans of `beamline.plans`, run by Bluesky's RunEngine: limits are checked
    before anything moves, the shutter is opened and closed, the surroundings are recorded.

    Parameters
    ----------
    client
        The connection.
    prefix
        Of all PVs; by default that of the motor of each scan.
    consumers
        Get the documents of every scan, for example a ``NeXusWriter("data/nexus")``.
    metadata
        Of the RunEngine, for every start document. A `beamline.core.metadata.PersistentMetadata`
        lets the scan numbers go on in the next script.

    Examples
    --------
    >>> with DeviceClient() as client:
    ...     engine = ScanEngine(client)
    ...     data = engine.run_linear(LinearScanConfig(
    ...         motor="BL02:SAMPLE:X", start=-1000, stop=1000, steps=41,
    ...         detectors=["BL02:DET:I0", "BL02:DET:IT"]))
    >>> data.to_nexus("scan_001.nxs")
    """

    def __init__(
        self,
        client: DeviceClient,
        *,
        prefix: str | None = None,
        consumers: Iterable[Consumer] = (),
        metadata: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.client = client
        self._metadata = {} if metadata is None else metadata
        self._prefix = prefix
        self._consumers = list(consumers)
        self._engine: Any = None

    def run(self, config: ScanConfig) -> ScanData:
        """Run the scan that a configuration describes."""
        if isinstance(config, LinearScanConfig):
            return self.run_linear(config)
        if isinstance(config, MeshScanConfig):
            return self.run_mesh(config)
        if isinstance(config, XAFSScanConfig):
            return self.run_xafs(config)
        raise ConfigurationError(
            f"expected a LinearScanConfig, MeshScanConfig or XAFSScanConfig, found {config!r}."
        )

    def run_linear(self, config: LinearScanConfig) -> ScanData:
        """Scan one motor along a line.

        Raises
        ------
        MotorLimitError
            If a point is outside the limits of the motor; nothing has moved.
        DeviceServerError
            If the server has no such motor or detector.
        MotionError, DetectorError, BeamLostError
            If the motor comes to rest elsewhere, a detector is dead, or the beam is lost.
        ConnectionLostError
            If the server goes away.
        KeyboardInterrupt
            At Ctrl-C, when all has been cleaned up.
        """
        from beamline.plans import linear_scan

        def plan(beamline: ServerBeamline) -> Any:
            return linear_scan(
                [beamline.counters], beamline.motor(config.motor), config.start, config.stop,
                config.steps, exposure=config.dwell_time,
            )  # fmt: skip

        return self._run(config, plan, [config.motor])

    def run_mesh(self, config: MeshScanConfig) -> ScanData:
        """Scan two motors over a grid; errors are those of `run_linear`."""
        from beamline.plans import mesh_scan

        def plan(beamline: ServerBeamline) -> Any:
            slow, low, high, rows = config.motor1
            fast, left, right, columns = config.motor2
            return mesh_scan(
                [beamline.counters], beamline.motor(slow), low, high, rows,
                beamline.motor(fast), left, right, columns,
                snake=config.snake, exposure=config.dwell_time,
            )  # fmt: skip

        return self._run(config, plan, [config.motor1[0], config.motor2[0]])

    def run_xafs(self, config: XAFSScanConfig) -> ScanData:
        """Scan the energy around an edge; errors are those of `run_linear`."""
        from beamline.plans import xafs_scan

        def plan(beamline: ServerBeamline) -> Any:
            return xafs_scan(
                beamline, e0=config.edge, regions=config.regions, dwell=config.dwell_time,
                mode=config.mode,
            )  # fmt: skip

        return self._run(config, plan, [config.energy_pv])

    def _run(
        self, config: Any, make_plan: Callable[[ServerBeamline], Any], motors: list[str]
    ) -> ScanData:
        from bluesky.utils import RunEngineInterrupted

        prefix = self._prefix if self._prefix is not None else _prefix_of(motors[0])
        energy = motors[0] if isinstance(config, XAFSScanConfig) else None
        # Unknown detectors are refused by the server before anything moves.
        self.client.get_many(config.detectors)
        beamline = ServerBeamline(self.client, prefix, config.detectors, energy)
        collected = _Collected()
        engine = self._run_engine()
        tokens = [engine.subscribe(each) for each in (collected, *self._consumers)]
        try:
            engine(make_plan(beamline))
        except BaseException as error:
            if engine.state == "paused":
                # A script has nobody to resume it: the plan cleans up and ends.
                engine.abort("the scan was interrupted")
            if isinstance(error, RunEngineInterrupted):
                raise KeyboardInterrupt from None
            cause = getattr(error, "__cause__", None)
            if not isinstance(error, BeamlineError) and isinstance(cause, BeamlineError):
                raise cause from None
            raise
        finally:
            for token in tokens:
                engine.unsubscribe(token)
            beamline.close()
        return collected.data(config, motors)

    def _run_engine(self) -> Any:
        if self._engine is None:
            from bluesky import RunEngine

            # A handler of Ctrl-C can only be installed in the main thread.
            in_main = threading.current_thread() is threading.main_thread()
            managers: list[Any] = [AbortOnInterrupt] if in_main else []
            self._engine = RunEngine(
                self._metadata, context_managers=managers, call_returns_result=False
            )
        return self._engine


class _Collected:
    """The documents of one scan."""

    def __init__(self) -> None:
        self._start: dict[str, Any] = {}
        self._stop: dict[str, Any] = {}
        self._primary = ""
        self._constants: dict[str, Any] = {}
        self._rows: list[Mapping[str, Any]] = []

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            self._start = dict(doc)
        elif name == "stop":
            self._stop = dict(doc)
        elif name == "descriptor" and doc["name"] == "primary":
            self._primary = doc["uid"]
        elif name == "event":
            if doc["descriptor"] == self._primary:
                self._rows.append(doc)
            elif not self._rows:
                self._constants = dict(doc["data"])

    def data(self, config: Any, motors: list[str]) -> ScanData:
        def column(pv: str) -> Any:
            return np.array([row["data"][document_key(pv)[0]] for row in self._rows])

        settings = config.model_dump(mode="json", exclude={"detectors", "scan_type", "mode"})
        metadata: dict[str, Any] = {
            **self._constants,
            **settings,
            **{key: self._start[key] for key in _KEPT if key in self._start},
            "scan_type": config.scan_type,
            "stop_document": {key: self._stop[key] for key in ("exit_status", "reason", "time")},
        }
        if isinstance(config, XAFSScanConfig):
            metadata["edge_name"] = metadata.get("edge")
            metadata["edge"] = config.edge
        return ScanData(
            {pv: column(pv) for pv in motors},
            {pv: column(pv) for pv in config.detectors},
            np.array([row["time"] for row in self._rows], dtype=np.float64),
            metadata,
        )


def _prefix_of(pv: str) -> str:
    """Everything before the last two parts of a name: ``BL02:`` of ``BL02:SAMPLE:X``."""
    parts = pv.split(":")
    return "".join(f"{part}:" for part in parts[:-2])
