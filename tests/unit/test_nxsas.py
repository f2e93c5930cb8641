"""The interface of suitcase-nxsas, and what its users met that must not be met here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
from nexus_documents import (
    Run,
    detector_configuration,
    feed,
    line_run,
    number,
    paged,
    stills_run,
    xafs_run,
)

from beamline.core.errors import ConfigurationError, StorageError
from beamline.nexus.compare import compare_files
from callbacks.nxsas import Serializer, export

TECHNIQUE = {
    "technique": "SAXS",
    "version": 1,
    "nxsas": {
        "_attributes": {"default": "entry"},
        "entry": {
            "_attributes": {"NX_class": "NXentry", "default": "data"},
            "instrument": {
                "_attributes": {"NX_class": "NXinstrument"},
                "name": "#bluesky/start/beamline_id",
                "again": "#bluesky/start@beamline_id",
                "aperture": {"vcenter": 1.0, "open": True, "blades": [1, 4, 6], "µ": None},
            },
            "energy": {
                "_attributes": {"units": "eV", "list": ["a", "b"]},
                "_link": "#bluesky/events/primary/data/mono_energy",
            },
            "gain": "#bluesky/desc/primary/configuration/counters/data/gate_offset",
            "status": "#bluesky/stop/exit_status",
            "title": {"_attributes": {"kind": "text"}, "_data": "USAXS"},
        },
    },
}


def techniques_run(**metadata: Any) -> list[Any]:
    return list(xafs_run(10, md={"techniques": [TECHNIQUE]}, **metadata))


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("pages", [True, False])
def test_documents_and_techniques_are_in_the_file(tmp_path: Path, as_text: bool, pages: bool):
    documents = techniques_run()
    if pages:
        documents = list(paged(documents, 4))
    artifacts = export(documents, str(tmp_path) if as_text else tmp_path, "{plan_name}-{scan_id}-")
    (path,) = artifacts["stream_data"]
    assert path == tmp_path / "xafs_scan-7-.h5"
    with h5py.File(path) as file:
        assert sorted(file) == ["bluesky", "entry"]
        assert sorted(file["bluesky"]) == ["descriptors", "events", "start", "stop"]
        assert file.attrs["default"] == "entry"
        start = documents[0][1]
        assert file["bluesky/start/uid"].asstr()[()] == start["uid"]
        assert file["bluesky/start/instrument/monochromator/reflection"][()].tolist() == [1, 1, 1]
        assert "data_keys" in file["bluesky/descriptors/primary"]
        events = file["bluesky/events/primary"]
        assert events["data/i0"].shape == (10,)
        stamps = [d["timestamps"]["i0"] for n, d in techniques_run() if n == "event"
                  and "i0" in d["data"]]  # fmt: skip
        np.testing.assert_array_equal(events["timestamps/i0"], stamps)
        entry = file["entry"]
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry["instrument/name"] == file["bluesky/start/beamline_id"]
        assert entry["instrument/again"] == file["bluesky/start/beamline_id"]
        assert entry["instrument/aperture/open"][()]
        assert entry["instrument/aperture/blades"][()].tolist() == [1, 4, 6]
        assert "NX_class" not in entry["instrument/aperture"].attrs
        assert entry["energy"] == events["data/mono_energy"]
        assert entry["energy"].attrs["units"] == "eV"
        assert entry["energy"].attrs["list"].tolist() == ["a", "b"]
        assert entry["gain"][()] == 0.5
        assert entry["status"].asstr()[()] == "success"
        assert entry["title"].asstr()[()] == "USAXS"
        assert entry["title"].attrs["kind"] == "text"


def test_techniques_at_the_top_level_are_read(tmp_path: Path):
    (path,) = export(xafs_run(3, techniques=[TECHNIQUE]), tmp_path)["stream_data"]
    with h5py.File(path) as file:
        assert file["entry/title"].asstr()[()] == "USAXS"


def test_a_small_angle_run_without_techniques_is_a_nexus_file(tmp_path: Path):
    frames = tmp_path / "frames.h5"
    with h5py.File(frames, "w") as file:
        file["/entry/data/data"] = np.arange(6 * 8 * 12, dtype="<u2").reshape(6, 8, 12)
    documents = list(stills_run(frames, configuration=detector_configuration()))
    (path,) = export(documents, tmp_path)["stream_data"]
    assert path.name == f"{documents[0][1]['uid']}-.h5"
    with h5py.File(path) as file:
        assert file["entry/definition"].asstr()[()] == "NXsas"
        assert file["bluesky/events/primary/data/ad1_image"].shape == (6, 8, 12)
        assert (
            file["bluesky/events/primary/data/mono_energy"]
            == file["entry/instrument/monochromator/energy"]
        )


def test_techniques_link_to_frames_in_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    frames = tmp_path / "frames.h5"
    with h5py.File(frames, "w") as file:
        file["/entry/data/data"] = np.arange(6 * 8 * 12, dtype="<u2").reshape(6, 8, 12)
    address = "#bluesky/events/primary/data/ad1_image"
    described = {"plain": address, "more": {"_link": address, "_attributes": {"units": "counts"}}}
    technique = {"technique": "SAXS", "version": 1, "nxsas": {"entry": described}}
    (_, start), *rest = stills_run(frames)
    documents = [("start", {**start, "md": {"techniques": [technique]}}), *rest]
    (path,) = export(documents, tmp_path / "files")["stream_data"]
    with h5py.File(path) as file:
        assert file["entry/plain"].shape == file["entry/more"].shape == (6, 8, 12)
    assert "/entry/more is in another file, which keeps its attributes" in caplog.text


def test_metadata_of_every_kind_is_kept(tmp_path: Path):
    metadata = {
        "yes": True, "none": None, "big": 2**40, "bigger": 2**70, "shape": [1, 4, 6],
        "ragged": [[1], [1, 2]], "empty": [], "array": np.arange(6).reshape(2, 3),
        "nested": {"a/b": {".": 1}}, "nul": "a\0b", "flags": [True, False],
    }  # fmt: skip
    run = Run(plan_name="count", **metadata)
    keys = {"d": {"a:b": number(), "c/d": {"source": "x", "dtype": "integer", "shape": []}}}
    documents = [run.begin(), run.describe("primary", keys), run.describe("primary", keys)]
    documents += [run.event("primary", {"a:b": 1.5, "c/d": 2**40}), run.stop()]
    (path,) = export(documents, tmp_path)["stream_data"]
    with h5py.File(path) as file:
        start = file["bluesky/start"]
        assert start["yes"][()]
        assert start["none"].asstr()[()] == "None"
        assert start["big"][()] == 2**40
        assert start["bigger"].asstr()[()] == str(2**70)
        assert start["array"][()].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert start["nested/a_b/_."][()] == 1
        assert sorted(file["bluesky/descriptors"]) == ["primary", "primary_2"]
        assert file["bluesky/events/primary/data/a:b"][()].tolist() == [1.5]
        assert file["bluesky/events/primary/data/c_d"][()].tolist() == [2**40]


def test_what_cannot_be_linked_is_named_and_the_rest_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    wrong = {
        "technique": "x", "version": 1,
        "nxsas": {
            "a": "#bluesky/start/nothing", "b": "#bluesky/what", "c": {"_link": "elsewhere"},
            "bluesky": {"start": 1}, "good": 1,
        },
    }  # fmt: skip
    run = xafs_run(3, techniques=[wrong, "SAXS"])
    (path,) = export(run, tmp_path)["stream_data"]
    for told in (
        "/a is left out: '#bluesky/start/nothing' does not exist in this run",
        "/b cannot be linked to '#bluesky/what'",
        "/c cannot be linked to 'elsewhere'",
        "/bluesky is the place of the documents",
        "technique 2 is ignored",
    ):
        assert told in caplog.text
    with h5py.File(path) as file:
        assert sorted(file) == ["bluesky", "good"]
        assert "uid" in file["bluesky/start"]


class Names:
    """As suitcase.utils.MultiFileManager, in its words."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.artifacts: dict[str, list[Any]] = {}
        self.closed = 0

    def reserve_name(self, label: str, postfix: str) -> str:
        name = str(self.directory / postfix)
        if name in self.artifacts.get(label, ()):
            raise ValueError(f"The postfix {postfix!r} has already been used.")
        self.artifacts.setdefault(label, []).append(name)
        return name

    def open(self, label: str, postfix: str, mode: str) -> Any:
        return Path(self.reserve_name(label, postfix)).open(mode)

    def close(self) -> None:
        self.closed += 1


class Buffers(Names):
    """As suitcase.utils.MemoryBuffersManager, which has no names."""

    def reserve_name(self, label: str, postfix: str) -> str:
        raise TypeError("incompatible with exporters that require explicit filenames")

    def open(self, label: str, postfix: str, mode: str) -> Any:
        assert mode == "xb"
        buffer = io.BytesIO()
        self.artifacts.setdefault(label, []).append(buffer)
        return buffer


def managers(tmp_path: Path, origin: str) -> tuple[Any, Any]:
    if origin == "ours":
        return Names(tmp_path), Buffers(tmp_path)
    utils = pytest.importorskip("suitcase.utils", reason="suitcase-utils is not installed")
    return utils.MultiFileManager(tmp_path), utils.MemoryBuffersManager()


@pytest.mark.parametrize("origin", ["ours", "suitcase-utils"])
def test_managers_hand_out_files_or_buffers(tmp_path: Path, origin: str):
    names, buffers = managers(tmp_path, origin)
    documents = list(line_run())
    ((path,),) = export(documents, names, "one-").values()
    assert Path(path) == tmp_path / "one-.h5"
    artifacts = export(documents, buffers, "one-")
    assert list(artifacts) == ["stream_data"]
    (buffer,) = artifacts["stream_data"]
    (tmp_path / "from-buffer.h5").write_bytes(buffer.getvalue())
    different = compare_files(path, tmp_path / "from-buffer.h5")
    assert different == []
    if origin == "ours":
        assert (names.closed, buffers.closed) == (1, 1)
    with pytest.raises(Exception, match="already been used"):
        export(documents, names, "one-")


def test_a_buffer_has_what_came_of_a_run_that_was_not_ended(tmp_path: Path):
    buffers = Buffers(tmp_path)
    with Serializer(buffers) as serializer:
        feed(serializer, list(line_run())[:12])
    (buffer,) = serializer.artifacts["stream_data"]
    with h5py.File(io.BytesIO(buffer.getvalue())) as file:
        assert len(file["entry/bluesky/streams/primary/i0/value"]) == 10


def test_a_run_that_is_cut_off_can_be_read(tmp_path: Path):
    documents = list(line_run(30))
    with Serializer(tmp_path) as serializer:
        feed(serializer, documents[:20])
    (path,) = serializer.artifacts["stream_data"]
    assert not path.exists()
    with h5py.File(f"{path}.part") as file:
        assert file["bluesky/events/primary/data/i0"].shape == (18,)


def test_what_is_wrong_is_said(tmp_path: Path):
    documents = list(line_run(3))
    with pytest.raises(ConfigurationError, match=r"'\{nobody\}-' cannot be filled in"):
        export(documents, tmp_path, "{nobody}-")
    with pytest.raises(ConfigurationError, match="must not be an absolute path"):
        export(documents, tmp_path, "/tmp/{uid}-")
    export(documents, tmp_path)
    with pytest.raises(StorageError, match="exists already"):
        export(documents, tmp_path)
    with (
        Serializer(tmp_path / "two") as serializer,
        pytest.raises(event_model.EventModelValueError),
    ):
        feed(serializer, [*documents, *line_run(3)])
