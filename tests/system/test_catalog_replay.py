"""Files replayed from the catalogue equal the live ones, for every kind of run."""

from __future__ import annotations

from pathlib import Path

import event_model
import h5py
import numpy as np
import pytest
from catalog_runs import NUMBER, frames_run
from nexus_documents import line_run, mesh_run, paged, powder_run, stills_run, xafs_run

from beamline.catalog import sync_catalog
from beamline.catalog._client import opened
from beamline.cli import main
from beamline.core.errors import MissingError
from beamline.documents import Journal, JournalWriter
from beamline.documents.replay import completed, replay
from beamline.nexus.compare import compare_files
from callbacks.cxi import CXIWriter
from callbacks.nexus import NeXusWriter

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

#: tiled makes the documents that refer to frames anew; the frames are the same.
MADE_ANEW = "/stream_resource "


def ended(documents, exit_status, reason):
    *before, (_, stop) = documents
    return [*before, ("stop", {**stop, "exit_status": exit_status, "reason": reason})]


def shortened(documents):
    *before, stop = documents
    return [*before[:12], stop]


def odd_run(data_keys, rows, **metadata):
    run = event_model.compose_run(metadata=metadata, time=1763600000.0)
    descriptor = run.compose_descriptor(name="primary", data_keys=data_keys)
    yield "start", run.start_doc
    yield "descriptor", descriptor.descriptor_doc
    for row in rows:
        times = dict.fromkeys(row, 1763600001.5)
        yield "event", descriptor.compose_event(data=row, timestamps=times, validate=False)
    yield "stop", run.compose_stop()


def every_kind(frames):
    array = {"source": "s", "dtype": "array", "shape": [2]}
    text = {"source": "s", "dtype": "string", "shape": []}
    return {
        "line": line_run(),
        "mesh": mesh_run(),
        "xafs": xafs_run(),
        "powder": powder_run(),
        "frames": stills_run(frames),
        "fly": paged(line_run(points=401), 100),
        "aborted": ended(shortened(line_run()), "abort", "by the user"),
        "failed": ended(list(mesh_run()), "fail", "BeamLostError: no beam"),
        "cut off": list(line_run())[:10],
        "no events": [item for item in line_run() if item[0] != "event"],
        "names": odd_run(
            {"time": NUMBER, "stage-x": NUMBER, "µ of sample": NUMBER, "x" * 80: NUMBER},
            [{"time": i, "stage-x": i + 0.5, "µ of sample": -i, "x" * 80: i} for i in range(3)],
        ),
        "values": odd_run(
            {"a": array, "t": text, "n": NUMBER},
            [{"a": [1.0, i], "t": f"µ {i}", "n": None if i else 2.5} for i in range(3)],
        ),
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Data directory and the live file of each kind of run."""
    data_dir = tmp_path_factory.mktemp("data")
    with h5py.File(data_dir / "frames.h5", "w") as file:
        file["/entry/data/data"] = np.arange(6 * 8 * 12, dtype=np.uint16).reshape(6, 8, 12)
    live = {}
    for scan_id, (kind, given) in enumerate(every_kind(data_dir / "frames.h5").items(), 1):
        (_, start), *rest = given
        documents = [("start", {**start, "scan_id": scan_id}), *rest]
        with JournalWriter(data_dir / "journal") as journal:
            replay(documents, [journal])
        writer = NeXusWriter(data_dir / "nexus")
        replay(completed(documents), [writer])
        live[kind] = writer.files[0]
    assert sync_catalog(data_dir).failed == {}
    return data_dir, live


def command(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code


@pytest.mark.slow
def test_every_kind_of_run_is_replayed_from_the_catalogue_as_it_was(recorded, tmp_path: Path):
    data_dir, live = recorded
    period = ("--since", "2020-01-01", "--until", "2040-01-01")
    where = ("--data-dir", data_dir, tmp_path)
    assert command("replay", "--from", "catalog", *period, "--to", "nexus", *where) in (0, None)
    assert len(list(tmp_path.glob("*.nxs"))) == len(live)
    for kind, path in live.items():
        different = compare_files(path, tmp_path / path.name)
        assert [said for said in different if MADE_ANEW not in said] == [], kind


@pytest.mark.slow
def test_runs_of_the_catalogue_are_found_without_a_journal(recorded, tmp_path: Path, capsys):
    data_dir, live = recorded
    (tmp_path / "catalog").symlink_to(data_dir / "catalog")
    asked = ("replay", "--from", "catalog", "--to", "nexus", "--data-dir", tmp_path)
    assert command(*asked, "2", tmp_path / "out") in (0, None)
    assert compare_files(live["mesh"], tmp_path / "out" / live["mesh"].name) == []
    assert command(*asked, "99", tmp_path / "out") != 0
    assert f"no run '99' in the catalogue, which holds {len(live)}" in capsys.readouterr().err


@pytest.mark.slow
def test_replay_asks_the_server_of_the_settings(recorded, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("BEAMLINE_CATALOG_URI", "http://127.0.0.1:1/api/v1")
    asked = ("replay", "--from", "catalog", "--to", "nexus", "--data-dir", recorded[0], "1")
    assert command(*asked, tmp_path) != 0
    assert "http://127.0.0.1:1/api/v1, does not answer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_frames_of_photons_come_back_dense_and_are_linked_again(tmp_path: Path):
    counts = np.random.default_rng(3).poisson(0.3, (5, 6, 4)).astype("<u4")
    uid = frames_run(tmp_path, tmp_path / "photons.h5", counts, sparse=True, scan_id=1)
    live, again = NeXusWriter(tmp_path / "nexus"), NeXusWriter(tmp_path / "again")
    replay(Journal(tmp_path / "journal").documents(uid), [live])
    assert sync_catalog(tmp_path).failed == {}
    with opened(tmp_path) as catalog:
        filled = [doc for name, doc in catalog[1].documents(fill=True) if name == "event"]
        replay(catalog[1].documents(), [again])
    assert np.array_equal([doc["data"]["im"] for doc in filled], counts)
    assert all(doc["filled"]["im"] for doc in filled)
    different = compare_files(live.files[0], again.files[0])
    assert [said for said in different if MADE_ANEW not in said] == []
    with h5py.File(again.files[0]) as file:
        assert file["entry/instrument/im_events/event_index"].shape == (5,)
    with opened(tmp_path) as catalog:
        (tmp_path / "photons.h5").unlink()
        with pytest.raises(MissingError, match=r"photons\.h5, which is not on this machine"):
            list(catalog[1].documents(fill=True))


def test_photons_are_in_no_cxi_file_and_that_is_said(tmp_path: Path, caplog):
    counts = np.ones((5, 6, 4), "<u4")
    uid = frames_run(tmp_path, tmp_path / "photons.h5", counts, sparse=True)
    writer = CXIWriter(tmp_path / "cxi")
    replay(Journal(tmp_path / "journal").documents(uid), [writer])
    assert writer.files == []
    assert "the 5 frames of im are events (photons)" in caplog.text
