"""Documents of runs, as the RunEngine would emit them, without one. Truth: `Truth`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import event_model
import numpy as np

Document = tuple[str, dict[str, Any]]

INSTRUMENT = {
    "name": "BL02",
    "source": {
        "name": "Simulated Light Source",
        "type": "Synchrotron X-ray Source",
        "probe": "x-ray",
    },
    "monochromator": {"type": "Si", "reflection": [1, 1, 1], "d_spacing": 3.1356},
}
COUNTERS = ("i0", "itrans", "ifluor", "irefer", "idiffr")
T0 = 1763640000.25


def number(units: str | None = None, **more: Any) -> dict[str, Any]:
    """Data key of a number."""
    key = {"source": "PV:BL02:X", "dtype": "number", "shape": [], **more}
    return key if units is None else {**key, "units": units}


def motor_keys(name: str, units: str) -> dict[str, Any]:
    """Data keys of a motor, as ophyd's EpicsMotor has them."""
    return {
        name: number(units, source=f"PV:BL02:{name}.RBV"),
        f"{name}_user_setpoint": number(units, source=f"PV:BL02:{name}.VAL"),
    }


def counter_keys() -> dict[str, Any]:
    """Data keys of the ion chambers."""
    return {**{name: number("counts") for name in COUNTERS}, "exposure": number("s")}


class Run:
    """A run that is being composed; every method returns documents."""

    def __init__(self, **metadata: Any) -> None:
        start = {
            "scan_id": 7,
            "beamline_id": "BL02",
            "instrument": INSTRUMENT,
            "sample": {"name": "Cu foil", "formula": "Cu"},
            "versions": {"bluesky": "1.15.1"},
            **metadata,
        }
        self.bundle = event_model.compose_run(
            uid=start.pop("uid", None), time=T0, metadata=start, validate=False
        )
        self.start = self.bundle.start_doc
        self.streams: dict[str, Any] = {}
        self.clock = T0

    def begin(self) -> Document:
        return "start", self.start

    def describe(self, stream: str, objects: Mapping[str, Mapping[str, Any]], **more: Any):
        """Descriptor of a stream: device → data keys; all non-setpoints of a device are hinted."""
        keys = {name: key for described in objects.values() for name, key in described.items()}
        hints = {
            device: {"fields": [k for k in described if not k.endswith("setpoint")]}
            for device, described in objects.items()
        }
        bundle = self.bundle.compose_descriptor(
            name=stream,
            data_keys=keys,
            object_keys={device: list(described) for device, described in objects.items()},
            hints=more.pop("hints", hints),
            configuration=more.pop("configuration", {}),
            time=self.clock,
            validate=False,
        )
        self.streams[stream] = bundle
        return "descriptor", bundle.descriptor_doc

    def event(self, stream: str, data: Mapping[str, Any], **more: Any) -> Document:
        self.clock += 0.125
        stamps = dict.fromkeys(data, self.clock - 0.01)
        doc = self.streams[stream].compose_event(
            data=dict(data), timestamps=stamps, time=self.clock, validate=False, **more
        )
        return "event", doc

    def stop(self, exit_status: str = "success", reason: str = "") -> Document:
        self.clock += 1
        return "stop", self.bundle.compose_stop(
            exit_status=exit_status, reason=reason, time=self.clock
        )


def baseline(run: Run) -> tuple[Document, dict[str, float]]:
    """Baseline as the session takes it: every motor and the machine."""
    keys = {
        "mono_energy": motor_keys("mono_energy", "eV"),
        "sample_x": motor_keys("sample_x", "um"),
        "sample_y": motor_keys("sample_y", "um"),
        "sample_z": motor_keys("sample_z", "um"),
        "sample_theta": motor_keys("sample_theta", "deg"),
        "ring": {"ring_current": number("mA")},
        "hutch": {"hutch_temperature": number("degC")},
        "shutter": {"shutter": {"source": "PV:S", "dtype": "string", "shape": []}},
    }
    descriptor = run.describe("baseline", keys)
    data: dict[str, Any] = {
        name: 100.0 + index
        for index, name in enumerate(k for described in keys.values() for k in described)
    }
    data["shutter"] = "Open"
    data["ring_current"] = 351.5
    return descriptor, data


def spectrum(points: int = 60) -> dict[str, np.ndarray]:
    """Counts (N,) of an absorption spectrum at energies around 8979 eV."""
    energy = np.linspace(8900.0, 9200.0, points)
    mut = 0.3 + 1.5 / (1 + np.exp(-(energy - 8979.0) / 2.0))
    i0 = 1e6 + 1e3 * np.sin(energy)
    return {
        "mono_energy": energy,
        "i0": i0,
        "itrans": i0 * np.exp(-mut),
        "ifluor": i0 * 0.1 * mut,
        "irefer": i0 * np.exp(-2 * mut),
        "idiffr": np.full(points, 10.0),
        "exposure": np.full(points, 0.5),
        "mono_energy_user_setpoint": energy,
    }


def xafs_run(
    points: int = 60, *, with_baseline: bool = True, stop: bool = True, **metadata: Any
) -> Iterator[Document]:
    """A run of ``xafs_scan``."""
    run = Run(
        **{
            "plan_name": "xafs_scan",
            "plan_args": {"element": "Cu", "edge": "K", "regions": [[-79, 221, 5]]},
            "detectors": ["counters"],
            "motors": ["mono_energy"],
            "num_points": points,
            "element": "Cu",
            "edge": "K",
            "e0": 8979.0,
            "mode": "transmission",
            "hints": {"dimensions": [(["mono_energy"], "primary")]},
            **metadata,
        }
    )
    yield run.begin()
    if with_baseline:
        descriptor, values = baseline(run)
        yield descriptor
        yield run.event("baseline", values)
    yield run.describe(
        "primary",
        {"counters": counter_keys(), "mono_energy": motor_keys("mono_energy", "eV")},
        configuration={
            "counters": {
                "data": {"counters_mode": "OneShot", "gate_offset": 0.5, "channels": [1, 2]},
                "timestamps": {"counters_mode": T0, "gate_offset": T0, "channels": T0},
                "data_keys": {
                    "counters_mode": {"source": "PV", "dtype": "string", "shape": []},
                    "gate_offset": number("s"),
                    "channels": {"source": "PV", "dtype": "array", "shape": [2]},
                },
            }
        },
    )
    columns = spectrum(points)
    for row in range(points):
        yield run.event("primary", {key: float(column[row]) for key, column in columns.items()})
    if with_baseline:
        yield run.event("baseline", values)
    if stop:
        yield run.stop()


def line_run(points: int = 21, **metadata: Any) -> Iterator[Document]:
    """A run of ``linear_scan``."""
    run = Run(
        **{
            "plan_name": "linear_scan",
            "detectors": ["counters"],
            "motors": ["sample_x"],
            "num_points": points,
            "hints": {"dimensions": [(["sample_x"], "primary")]},
            **metadata,
        }
    )
    yield run.begin()
    yield run.describe(
        "primary", {"counters": counter_keys(), "sample_x": motor_keys("sample_x", "um")}
    )
    for x in np.linspace(-1000, 1000, points):
        counts = {name: 1e5 * np.exp(-((x - 380) ** 2) / 1e5) + 10 for name in COUNTERS}
        yield run.event(
            "primary", {**counts, "exposure": 0.5, "sample_x": x, "sample_x_user_setpoint": x}
        )
    yield run.stop()


def mesh_run(
    shape: tuple[int, int] = (4, 5), *, visited: int | None = None, **metadata: Any
) -> Iterator[Document]:
    """A run of ``mesh_scan``, snaked; i0 is 100·iy + ix."""
    ny, nx = shape
    run = Run(
        **{
            "plan_name": "mesh_scan",
            "detectors": ["counters"],
            "motors": ["sample_y", "sample_x"],
            "num_points": ny * nx,
            "shape": [ny, nx],
            "extents": [[-2.0, 2.0], [10.0, 20.0]],
            "snaking": [False, True],
            "hints": {
                "gridding": "rectilinear",
                "dimensions": [(["sample_y"], "primary"), (["sample_x"], "primary")],
            },
            **metadata,
        }
    )
    yield run.begin()
    yield run.describe(
        "primary",
        {
            "counters": counter_keys(),
            "sample_y": motor_keys("sample_y", "um"),
            "sample_x": motor_keys("sample_x", "um"),
        },
    )
    for point in range(ny * nx if visited is None else visited):
        iy, ix = divmod(point, nx)
        if iy % 2:
            ix = nx - 1 - ix
        y, x = np.linspace(-2, 2, ny)[iy], np.linspace(10, 20, nx)[ix]
        counts = {name: 100.0 * iy + ix + n for n, name in enumerate(COUNTERS)}
        position = {"sample_y": y + 1e-3, "sample_y_user_setpoint": y}
        position |= {"sample_x": x - 1e-3, "sample_x_user_setpoint": x}
        yield run.event("primary", {**counts, "exposure": 0.5, **position})
    done = visited is None or visited == ny * nx
    yield run.stop(*(() if done else ("abort", "the user had enough")))


def stills_run(
    frames: Path,
    number_of_frames: int = 6,
    configuration: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> Iterator[Document]:
    """A run of ``stills``; the frames are in the file `frames`."""
    run = Run(
        **{
            "plan_name": "stills",
            "detectors": ["ad1"],
            "motors": [],
            "num_points": number_of_frames,
            "hints": {"dimensions": [(["time"], "primary")]},
            **metadata,
        }
    )
    image = {
        "source": "PV:BL02:AD1:cam1:", "dtype": "array", "dtype_numpy": "<u2",
        "shape": [8, 12], "external": "STREAM:", "units": "counts",
    }  # fmt: skip
    yield run.begin()
    yield run.describe(
        "primary",
        {"ad1": {"ad1_image": image}, "mono_energy": motor_keys("mono_energy", "eV")},
        hints={"ad1": {"fields": []}, "mono_energy": {"fields": ["mono_energy"]}},
        configuration={"ad1": configuration} if configuration else {},
    )
    resource = run.bundle.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{frames.absolute()}",
        data_key="ad1_image",
        parameters={"dataset": "/entry/data/data", "chunk_shape": [1, 8, 12]},
        validate=False,
    )
    yield "stream_resource", resource.stream_resource_doc
    for index in range(number_of_frames):
        datum = resource.compose_stream_datum(
            indices={"start": index, "stop": index + 1},
            descriptor=run.streams["primary"].descriptor_doc,
            validate=False,
        )
        yield "stream_datum", datum
        yield run.event("primary", {"mono_energy": 9000.0, "mono_energy_user_setpoint": 9000.0})
    yield run.stop()


def powder_run(points: int = 41, *, with_theta: bool = True, **metadata: Any) -> Iterator[Document]:
    """A θ–2θ scan of silicon (111) at 9 keV; the energy is in the baseline alone."""
    motors = ["sample_theta", "det_tth"] if with_theta else ["det_tth"]
    run = Run(
        **{
            "plan_name": "scan",
            "detectors": ["counters"],
            "motors": motors,
            "num_points": points,
            "hints": {"dimensions": [(motors, "primary")]},
            **metadata,
        }
    )
    yield run.begin()
    descriptor, values = baseline(run)
    yield descriptor
    yield run.event("baseline", {**values, "mono_energy": 9000.0})
    objects = {"counters": counter_keys(), **{name: motor_keys(name, "deg") for name in motors}}
    yield run.describe("primary", objects)
    for tth in np.linspace(24.0, 28.0, points):
        peak = float(round(1e4 * np.exp(-((tth - 25.4) ** 2) / 0.01) + 20))
        counts = {name: peak if name == "idiffr" else 1e5 for name in COUNTERS}
        angles = {"sample_theta": tth / 2, "sample_theta_user_setpoint": tth / 2}
        angles = angles if with_theta else {}
        angles |= {"det_tth": tth, "det_tth_user_setpoint": tth}
        yield run.event("primary", {**counts, "exposure": 0.5, **angles})
    yield run.event("baseline", {**values, "mono_energy": 9000.0})
    yield run.stop()


def detector_configuration(**settings: Any) -> dict[str, Any]:
    """Configuration of the area detector, as its device has it."""
    known: dict[str, tuple[Any, str | None]] = {
        "distance": (5000.0, "mm"), "pixel_x": (7.5e-5, "m"), "pixel_y": (7.5e-5, "m"),
        "beam_x": (6.5, "px"), "beam_y": (4.0, "px"), "photon_energy": (9000.0, "eV"),
        "exposure": (0.1, "s"), "sim_mode": ("SAXS", None),
    }  # fmt: skip
    known |= {name: (value, known[name][1]) for name, value in settings.items()}
    given = {f"ad1_{name}": pair for name, pair in known.items() if pair[0] is not None}
    return {
        "data": {name: value for name, (value, _) in given.items()},
        "timestamps": dict.fromkeys(given, T0),
        "data_keys": {
            name: {"source": "PV", "dtype": "string", "shape": []}
            if isinstance(value, str)
            else number(units)
            for name, (value, units) in given.items()
        },
    }


def paged(documents: Iterable[Document], size: int) -> Iterator[Document]:
    """The same run with its events in pages of `size`."""
    waiting: list[dict[str, Any]] = []

    def page() -> Iterator[Document]:
        if waiting:
            yield "event_page", event_model.pack_event_page(*waiting)
            waiting.clear()

    for name, doc in documents:
        if name == "event" and (not waiting or waiting[0]["descriptor"] == doc["descriptor"]):
            waiting.append(doc)
            if len(waiting) >= size:
                yield from page()
            continue
        yield from page()
        if name == "event":
            waiting.append(doc)
        else:
            yield name, doc
    yield from page()


def feed(consumer: Any, documents: Iterable[Document]) -> list[Document]:
    """Give all documents to a consumer and return them."""
    kept = list(documents)
    for name, doc in kept:
        consumer(name, doc)
    return kept


def with_counter(documents: Iterable[Document]) -> Iterator[Document]:
    """The same run with a counter beside the frames, which has a plot of its own."""
    for name, doc in documents:
        if name == "descriptor" and doc["name"] == "primary":
            doc["data_keys"]["i0"] = {**number("counts"), "object_name": "counters"}
            doc["object_keys"]["counters"] = ["i0"]
            doc["hints"]["counters"] = {"fields": ["i0"]}
        elif name == "event":
            doc["data"]["i0"], doc["timestamps"]["i0"] = 5.0, doc["time"]
        yield name, doc
