"""Documents of a series of frames, and the files that they refer to, without a beamline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_run, compose_stream_resource

from ioc.frame_file import Layout, create_frame_file
from ioc.frames import DENSE, EVENTS, FrameHeader

SHAPE = (24, 20)
GEOMETRY = {
    "ad1_distance": (200.0, "mm"), "ad1_beam_x": (8.3, "px"), "ad1_beam_y": (11.7, "px"),
    "ad1_pixel_x": (1.5e-4, "m"), "ad1_pixel_y": (1.5e-4, "m"),
    "ad1_photon_energy": (9000.0, "eV"), "ad1_exposure": (0.004, "s"), "ad1_period": (0.005, "s"),
}  # fmt: skip


def frames_of(number: int, seed: int = 1, mean: float = 2.0) -> np.ndarray:
    """Speckle that decays with a time of five frames, as counts."""
    rng = np.random.default_rng(seed)
    size = (2, *SHAPE)
    keep = np.exp(-0.2)
    field = rng.normal(size=size)
    frames = []
    for _ in range(number):
        field = keep * field + np.sqrt(1 - keep**2) * rng.normal(size=size)
        frames.append(rng.poisson(0.5 * mean * (field**2).sum(axis=0)))
    return np.array(frames, dtype=np.uint16)


class Series:
    """A run of one series: its file grows with `write`, its documents are made as one asks.

    Parameters
    ----------
    consumer
        Gets the documents.
    """

    def __init__(self, folder: Path, consumer: Any, *, sparse: bool = False, **start: Any) -> None:
        self.consumer, self.sparse = consumer, sparse
        layout = Layout(EVENTS if sparse else DENSE, SHAPE)
        self.path = folder / f"frames_{'sparse' if sparse else 'dense'}_{time.time_ns()}.h5"
        self.file = create_frame_file(self.path, layout)
        self.rows = self.referred = 0
        metadata = {
            "technique": "XPCS", "plan_name": "xpcs_series", "scan_id": 7,
            "sample": {"name": "silica"}, **start,
        }  # fmt: skip
        self.run = compose_run(metadata=metadata)
        self.uid = self.run.start_doc["uid"]
        self.give("start", self.run.start_doc)
        data = {key: value for key, (value, _) in GEOMETRY.items()}
        self.stream = self.run.compose_descriptor(
            name="primary",
            data_keys={
                "ad1_image": {
                    "dtype": "array", "dtype_numpy": "<u4" if sparse else "<u2",
                    "shape": list(SHAPE), "source": "PV:AD1", "external": "STREAM:",
                }
            },
            object_keys={"ad1": ["ad1_image"]},
            configuration={
                "ad1": {
                    "data": data,
                    "timestamps": dict.fromkeys(data, time.time()),
                    "data_keys": {
                        key: {"dtype": "number", "shape": [], "source": "PV", "units": unit}
                        for key, (_, unit) in GEOMETRY.items()
                    },
                }
            },
        )  # fmt: skip
        self.give("descriptor", self.stream.descriptor_doc)
        self.resource: Any = None

    def give(self, name: str, doc: Any) -> None:
        self.consumer(name, doc)

    def write(self, frames: np.ndarray, numbers: Any = None, begin: float = 1000.0) -> None:
        """Put frames into the file; `numbers` are the detector's (counted on by default)."""
        for k, frame in enumerate(frames):
            number = self.rows if numbers is None else int(numbers[k])
            if self.sparse:
                payload = np.repeat(np.arange(frame.size), frame.ravel()).astype("<u4").tobytes()
            else:
                payload = frame.astype("<u2").tobytes()
            header = FrameHeader(
                number, number, begin + 0.005 * number, EVENTS if self.sparse else DENSE, SHAPE,
                len(payload), 9000.0, 0.004,
            )  # fmt: skip
            self.file.append(header, payload)
            self.rows += 1
        self.file.flush()

    def refer(self, stop: int | None = None) -> None:
        """Refer to the rows up to `stop` (all by default)."""
        if self.resource is None:
            parameters: dict[str, Any] = {
                "dataset": "/entry/data/data", "chunk_shape": [1, *SHAPE],
            }  # fmt: skip
            if self.sparse:
                parameters = {
                    "dataset": "/entry/events/event_index", "chunk_shape": [1024],
                    "event_id": "/entry/events/event_id", "frame_shape": list(SHAPE),
                }  # fmt: skip
            self.resource = compose_stream_resource(
                mimetype="application/x-hdf5", uri=f"file://localhost{self.path}",
                data_key="ad1_image", parameters=parameters, start=self.run.start_doc,
            )  # fmt: skip
            self.give("stream_resource", self.resource.stream_resource_doc)
        last = self.rows if stop is None else stop
        datum = self.resource.compose_stream_datum(
            indices={"start": self.referred, "stop": last},
            seq_nums={"start": self.referred + 1, "stop": last + 1},
            descriptor=self.stream.descriptor_doc,
        )
        self.referred = last
        self.give("stream_datum", datum)

    def stop(
        self, exit_status: str = "success", reason: str = "", *, complete: bool = True
    ) -> None:
        self.file.close(complete=complete)
        self.give("stop", self.run.compose_stop(exit_status=exit_status, reason=reason))
