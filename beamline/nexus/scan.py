"""Documents of a scan that is at hand as arrays, as a RunEngine would have emitted them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError
from beamline.nexus.roles import DEFAULT_ROLES
from beamline.nexus.shapes import Mesh, find_mesh

__all__ = ["SCAN_TYPES", "ScanArrays", "ScanType", "data_key", "scan_documents"]

ScanType = Literal["linear", "mesh", "xafs"]
SCAN_TYPES: Mapping[str, str] = {
    "linear": "linear_scan", "mesh": "mesh_scan", "xafs": "xafs_scan",
}  # fmt: skip
Document = tuple[str, dict[str, Any]]

_PAGE = 1000
#: End of a PV (or a usual name) → data key and unit of the devices of this project.
_KNOWN: Mapping[str, tuple[str, str]] = {
    "MONO:ENERGY": ("mono_energy", "eV"), "ENERGY": ("mono_energy", "eV"),
    "SAMPLE:X": ("sample_x", "um"), "SAMPLE:Y": ("sample_y", "um"), "SAMPLE:Z": ("sample_z", "um"),
    "SAMPLE:THETA": ("sample_theta", "deg"), "DET:TTH": ("det_tth", "deg"),
    "TWO_THETA": ("det_tth", "deg"), "2THETA": ("det_tth", "deg"),
    "DET:I0": ("i0", "counts"), "DET:IT": ("itrans", "counts"), "DET:IF": ("ifluor", "counts"),
    "DET:IR": ("irefer", "counts"), "DET:XRD": ("idiffr", "counts"),
    "I0": ("i0", "counts"), "IT": ("itrans", "counts"), "ITRANS": ("itrans", "counts"),
    "IF": ("ifluor", "counts"), "IFLUOR": ("ifluor", "counts"),
    "IR": ("irefer", "counts"), "IREFER": ("irefer", "counts"), "IDIFFR": ("idiffr", "counts"),
    "RING:CURRENT": ("ring_current", "mA"), "RING_CURRENT": ("ring_current", "mA"),
    "POSITION_X": ("sample_x", "um"), "POSITION_Y": ("sample_y", "um"),
    "POSITION_Z": ("sample_z", "um"), "ROTATION_ANGLE": ("sample_theta", "deg"),
    "EXPOSURE": ("exposure", "s"), "DWELL_TIME": ("exposure", "s"),
}  # fmt: skip
_UNITS = dict(_KNOWN.values())
#: What a start document has by itself.
_OWN = ("uid", "time", "hints", "motors", "detectors", "num_points", "title")


class ScanArrays(Protocol):
    """A scan as arrays: ``beamline.daq.ScanData`` is one.

    Attributes
    ----------
    motor_positions, detector_readings
        Name → array, (N,) or for detectors (N, …).
    timestamps
        (N,) s since 1970.
    metadata
        Anything; ``sample``, ``element``, ``edge``, ``ring_current``, … have places of their own.
    """

    @property
    def motor_positions(self) -> Mapping[str, npt.NDArray[Any]]: ...  # noqa: D102
    @property
    def detector_readings(self) -> Mapping[str, npt.NDArray[Any]]: ...  # noqa: D102
    @property
    def timestamps(self) -> npt.NDArray[np.float64]: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102


def data_key(name: str) -> tuple[str, str | None]:
    """Give data key and unit of a PV or quantity: those of the devices, where it is of theirs.

    Examples
    --------
    >>> data_key("BL02:SAMPLE:X"), data_key("pitch")
    (('sample_x', 'um'), ('pitch', None))
    """
    parts = name.upper().split(":")
    for count in (2, 1):
        known = _KNOWN.get(":".join(parts[-count:]))
        if known is not None and (count == 2 or len(parts) == 1):
            return known
    return name, _UNITS.get(name)


def scan_documents(
    scan: ScanArrays, *, title: str | None = None, scan_type: ScanType = "linear"
) -> Iterator[Document]:
    """Yield start, descriptors, event pages and stop.

    Raises
    ------
    ConfigurationError
        For an unknown type of scan, or arrays of which no scan can be made.
    """
    if scan_type not in SCAN_TYPES:
        raise ConfigurationError(
            f"scan_type must be one of {', '.join(SCAN_TYPES)}, found {scan_type!r}."
        )
    columns = _Columns(scan)
    stamps = np.asarray(scan.timestamps, dtype=np.float64)
    began = float(stamps[0]) if stamps.size else float(scan.metadata.get("time", time.time()))
    start = _start(scan, columns, began, title, scan_type)
    run = start["uid"]
    yield "start", start
    if columns.constants:
        yield from _baseline(columns, run, began)
    descriptor = {
        "uid": str(uuid.uuid4()),
        "run_start": run,
        "time": began,
        "name": "primary",
        "data_keys": columns.described,
        "object_keys": {key: [key] for key in columns.described},
        "hints": {key: {"fields": [key]} for key in columns.described},
        "configuration": {},
    }
    yield "descriptor", descriptor
    for first in range(0, stamps.size, _PAGE):
        rows = slice(first, first + _PAGE)
        times = stamps[rows].tolist()
        yield (
            "event_page",
            {
                "uid": [str(uuid.uuid4()) for _ in times],
                "descriptor": descriptor["uid"],
                "seq_num": list(range(first + 1, first + 1 + len(times))),
                "time": times,
                "data": {key: values[rows] for key, values in columns.values.items()},
                "timestamps": dict.fromkeys(columns.values, times),
                "filled": {},
            },
        )
    stop = scan.metadata.get("stop_document")
    stop = dict(stop) if isinstance(stop, Mapping) else {}
    yield (
        "stop",
        {
            "exit_status": "success",
            "reason": "",
            "time": float(stamps[-1]) if stamps.size else began,
            **{key: stop[key] for key in ("exit_status", "reason", "time") if key in stop},
            "uid": str(uuid.uuid4()),
            "run_start": run,
            "num_events": {
                "primary": int(stamps.size),
                **({"baseline": 1} if columns.constants else {}),
            },
        },
    )


class _Columns:
    """Data keys, values and names of a scan."""

    def __init__(self, scan: ScanArrays) -> None:
        self.values: dict[str, npt.NDArray[Any]] = {}
        self.described: dict[str, dict[str, Any]] = {}
        self.motors = [self._take(n, v) for n, v in scan.motor_positions.items()]
        self.detectors = [self._take(n, v) for n, v in scan.detector_readings.items()]
        length = np.asarray(scan.timestamps).size
        wrong = {key: len(v) for key, v in self.values.items() if len(v) != length}
        if wrong:
            raise ConfigurationError(
                f"the scan has {length} time stamps, but "
                + ", ".join(f"{count} values of {key!r}" for key, count in wrong.items())
                + ": all arrays must have the same length."
            )
        self.constants: dict[str, tuple[float, dict[str, Any]]] = {}
        for name, value in scan.metadata.items():
            key, units = data_key(str(name))
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or key not in DEFAULT_ROLES.values() or key in self.values:
                continue
            if key == DEFAULT_ROLES["exposure"]:
                self._take(key, np.full(length, float(value)))
            else:
                self.constants[key] = float(value), _described(name, "number", [], units)

    def _take(self, name: str, values: Any) -> str:
        array = np.asarray(values)
        key, units = data_key(name)
        if key in self.values:
            key = name
        if array.ndim == 0 or array.dtype.kind not in "biufU":
            raise ConfigurationError(
                f"the values of {name!r} must be an array of numbers or text, one row per point, "
                f"found {array.dtype} {array.shape}."
            )
        kind = {"b": "boolean", "i": "integer", "u": "integer", "U": "string"}.get(
            array.dtype.kind, "number"
        )
        described = _described(name, kind, [], units)
        if array.ndim > 1:
            shape = [int(n) for n in array.shape[1:]]
            described = _described(name, "array", shape, units)
            described["dtype_numpy"] = array.dtype.str
        self.values[key] = array
        self.described[key] = described
        return key


def _described(name: str, kind: str, shape: list[int], units: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {"source": str(name), "dtype": kind, "shape": shape}
    return described if units is None else {**described, "units": units}


def _start(
    scan: ScanArrays, columns: _Columns, began: float, title: str | None, scan_type: ScanType
) -> dict[str, Any]:
    given = {str(key): value for key, value in scan.metadata.items() if key not in _OWN}
    start: dict[str, Any] = {
        "plan_name": SCAN_TYPES[scan_type],
        **given,
        "uid": str(scan.metadata.get("uid") or uuid.uuid4()),
        "time": began,
        "motors": columns.motors,
        "detectors": columns.detectors,
        "num_points": int(np.asarray(scan.timestamps).size),
    }
    chosen = title if title is not None else scan.metadata.get("title")
    if chosen:
        start["title"] = str(chosen)
    scanned = columns.motors
    if scan_type == "xafs":
        start |= _edge(given)
        scanned = [key for key in columns.motors if key == DEFAULT_ROLES["energy"]] or scanned
    if scan_type == "mesh" and len(columns.motors) >= 2:
        mesh = _mesh(given, [columns.values[key] for key in columns.motors[:2]])
        if mesh is not None:
            scanned = [columns.motors[index] for index in mesh.order]
            start |= {
                "shape": list(mesh.shape),
                "extents": [list(pair) for pair in mesh.extents],
                "snaking": list(mesh.snaking),
            }
            start["hints"] = {
                "gridding": "rectilinear",
                "dimensions": [([key], "primary") for key in scanned],
            }
            return start
    # Motors that move together are one dimension.
    start["hints"] = {"dimensions": [(scanned, "primary")] if scanned else [(["time"], "primary")]}
    return start


def _mesh(given: Mapping[str, Any], positions: Sequence[npt.NDArray[Any]]) -> Mesh | None:
    """Return the grid that the metadata describe, or else the one that the positions lie on."""
    try:
        ny, nx = (int(n) for n in given["shape"])
        slow, fast = given["extents"]
        snaking = [bool(flag) for flag in given.get("snaking", (False, False))]
        stated = Mesh(
            (0, 1), (ny, nx), (tuple(slow), tuple(fast)), (False, len(snaking) > 1 and snaking[1])
        )
    except (KeyError, TypeError, ValueError):
        return find_mesh(*positions)
    return stated


def _edge(given: Mapping[str, Any]) -> dict[str, Any]:
    """Name the edge of a spectrum of which only the energy is stated."""
    edge = given.get("edge")
    energy = edge if isinstance(edge, int | float) else given.get("e0")
    found: dict[str, Any] = {}
    if isinstance(edge, int | float):
        found = {"e0": float(edge), "edge": str(given.get("edge_name") or "")}
        if found["edge"] and given.get("element"):
            return found
    if isinstance(given.get("element"), str) and isinstance(edge, str):
        return found
    if isinstance(energy, int | float) and energy > 0:
        import xraydb

        guess = xraydb.guess_edge(float(energy), edges=["K", "L3", "L2", "L1"])
        if guess is not None:
            found |= {"element": str(guess[0]), "edge": str(guess[1])}
    return found


def _baseline(columns: _Columns, run: str, began: float) -> Iterator[Document]:
    keys = {key: described for key, (_, described) in columns.constants.items()}
    uid = str(uuid.uuid4())
    yield "descriptor", {
        "uid": uid, "run_start": run, "time": began, "name": "baseline", "data_keys": keys,
        "object_keys": {key: [key] for key in keys}, "hints": {}, "configuration": {},
    }  # fmt: skip
    yield "event", {
        "uid": str(uuid.uuid4()), "descriptor": uid, "seq_num": 1, "time": began,
        "data": {key: value for key, (value, _) in columns.constants.items()},
        "timestamps": dict.fromkeys(keys, began), "filled": {},
    }  # fmt: skip
