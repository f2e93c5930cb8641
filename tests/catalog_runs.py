"""Runs in a journal, for tests of the catalogue."""

from __future__ import annotations

import event_model
import h5py
import numpy as np

from beamline.documents import JournalWriter

NUMBER = {"source": "sim", "dtype": "number", "shape": []}


def record(
    data_dir,
    rows=5,
    keys=None,
    values=None,
    pages=False,
    stop=True,
    begun=None,
    exit_status="success",
    **metadata,
):
    """Write one run into the journal; return its uid."""
    keys = keys or {"x": NUMBER}
    run = event_model.compose_run(metadata=metadata, time=begun)
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    with JournalWriter(data_dir / "journal") as writer:
        writer("start", run.start_doc)
        writer("descriptor", descriptor.descriptor_doc)
        values = values if values is not None else [{"x": float(i)} for i in range(rows)]
        events = [
            descriptor.compose_event(
                data=value, timestamps=dict.fromkeys(value, 1.0), validate=False
            )
            for value in values
        ]
        if pages:
            writer("event_page", event_model.pack_event_page(*events))
        else:
            for event in events:
                writer("event", event)
        if stop:
            writer("stop", run.compose_stop(exit_status=exit_status))
    return run.start_doc["uid"]


def write_photons(file, frames):
    """Write frames (n, H, W) as an NXevent_data group."""
    flat = frames.reshape(len(frames), -1)
    photons = [np.repeat(np.arange(flat.shape[1]), counts) for counts in flat]
    with h5py.File(file, "w") as stream:
        group = stream.create_group("/entry/data/events")
        group.attrs["NX_class"] = "NXevent_data"
        group["event_id"] = np.concatenate(photons).astype("<u4")
        group["event_index"] = np.cumsum([0, *map(len, photons[:-1])]).astype("<u8")


def frames_run(data_dir, file, frames, per_event=None, sparse=False, **metadata):
    """Write frames into an HDF5 file, if there is none, and a run that refers to it."""
    if not file.exists() and sparse:
        write_photons(file, frames)
    elif not file.exists():
        with h5py.File(file, "w") as stream:
            stream["/entry/data/data"] = frames
    shape = list(frames.shape[1:]) if per_event is None else [per_event, *frames.shape[1:]]
    events = len(frames) // (per_event or 1)
    image = {
        "source": "", "dtype": "array", "shape": shape, "dtype_numpy": frames.dtype.str,
        "external": "STREAM:",
    }  # fmt: skip
    run = event_model.compose_run(metadata=metadata)
    descriptor = run.compose_descriptor(name="primary", data_keys={"im": image, "x": NUMBER})
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=file.as_uri().replace("file://", "file://localhost"),
        data_key="im",
        parameters={
            "dataset": "/entry/data/events/event_index",
            "event_id": "/entry/data/events/event_id",
            "frame_shape": shape,
            "chunk_shape": [1],
        }
        if sparse
        else {"dataset": "/entry/data/data", "chunk_shape": [1, *frames.shape[1:]]},
    )
    with JournalWriter(data_dir / "journal") as writer:
        writer("start", run.start_doc)
        writer("descriptor", descriptor.descriptor_doc)
        writer("stream_resource", resource.stream_resource_doc)
        for i in range(events):
            writer(
                "stream_datum",
                resource.compose_stream_datum(
                    indices={"start": i, "stop": i + 1},
                    seq_nums={"start": i + 1, "stop": i + 2},
                    descriptor=descriptor.descriptor_doc,
                ),
            )
            event = descriptor.compose_event(
                data={"x": float(i)}, timestamps={"x": 1.0}, validate=False
            )
            writer("event", event)
        writer("stop", run.compose_stop())
    return run.start_doc["uid"]
