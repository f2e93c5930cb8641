"""Documents in, files out: values, ways of arriving, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_documents import (
    Document,
    Run,
    feed,
    line_run,
    mesh_run,
    number,
    paged,
    powder_run,
    spectrum,
    stills_run,
    xafs_run,
)

from beamline.core.errors import ConfigurationError, FileFormatError, MissingError, StorageError
from beamline.documents.consumers import DocumentError
from beamline.nexus.compare import compare_files
from callbacks.nexus import NeXusWriter, file_name


def write(directory: Path, documents: Iterable[Document], **options: Any) -> Path:
    """Write one run and return its file."""
    writer = NeXusWriter(directory, **options)
    feed(writer, documents)
    (path,) = writer.files
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Six frames in a file."""
    path = tmp_path / "frames" / "ad1_0001.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = np.arange(6 * 8 * 12, dtype="<u2").reshape(6, 8, 12)
    return path


# --- content ------------------------------------------------------------------------------------


def test_a_spectrum(tmp_path: Path):
    path = write(tmp_path, xafs_run(60))
    truth = spectrum(60)
    with h5py.File(path, "r") as file:
        entry = file["entry"]
        assert file.attrs["default"] == "entry"
        assert file.attrs["file_name"] == path.name
        np.testing.assert_array_equal(entry["energy"][()], truth["mono_energy"])
        mut = np.log(truth["i0"] / truth["itrans"])
        np.testing.assert_allclose(entry["intensity"][()], mut, rtol=1e-12)
        assert entry["energy"].attrs["units"] == "eV"
        assert entry["data/energy"] == entry["instrument/monochromator/energy"]
        assert entry["data/energy"].attrs["target"] == "/entry/instrument/monochromator/energy"
        np.testing.assert_array_equal(entry["instrument/source/current"], [351.5, 351.5])
        assert entry["instrument/source/current"].attrs["units"] == "mA"
        times = entry["bluesky/streams/primary/i0/time"]
        np.testing.assert_allclose(np.diff(times[()]), 0.125)
        assert times.attrs["start"] == entry["start_time"].asstr()[()]
        assert entry["exit_status"].asstr()[()] == "success"
        assert json.loads(entry["bluesky/documents/start"].asstr()[()])["scan_id"] == 7


def test_a_mesh_is_unsnaked_and_open_where_nothing_was_measured(tmp_path: Path):
    path = write(tmp_path, mesh_run((4, 5), visited=13))
    with h5py.File(path, "r") as file:
        grid = file["entry/data/i0"][()]
        expected = 100.0 * np.arange(4)[:, None] + np.arange(5)
        expected[2, 3:] = np.nan
        expected[3] = np.nan
        np.testing.assert_array_equal(grid, expected)
        np.testing.assert_array_equal(file["entry/data/sample_x"], np.linspace(10, 20, 5))
        assert file["entry/instrument/i0/data"].shape == (13,)
        assert file["entry/exit_status"][()] == b"abort"
        assert file["entry/reason"][()] == b"the user had enough"


def test_a_relative_mesh_is_where_the_motors_were(tmp_path: Path):
    with h5py.File(write(tmp_path, mesh_run(plan_name="rel_grid_scan", extents=[[0, 4], [0, 10]]))
                   ) as file:  # fmt: skip
        np.testing.assert_allclose(
            file["entry/data/sample_y"], np.linspace(-2, 2, 4) + 1e-3, rtol=1e-12
        )


def test_frames_are_linked_relatively(tmp_path: Path, frames: Path):
    path = write(tmp_path / "nexus", stills_run(frames))
    with h5py.File(path, "r") as file:
        link = file["entry/instrument/ad1_image"].get("data", getlink=True)
        assert link.filename == "../frames/ad1_0001.h5"
        assert "target" not in file["entry/data/ad1_image"].attrs
        assert file["entry/data/ad1_image"].shape == (6, 8, 12)
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    shutil.rmtree(tmp_path / "frames")
    moved = tmp_path.with_name("moved") / "nexus" / path.name
    with h5py.File(moved, "r") as file:
        assert file["entry/data/ad1_image"][5, 7, 11] == 6 * 8 * 12 - 1


def two_files_run(frames: Path, *, rows: tuple[int, ...] = (3, 3)) -> list[Document]:
    """A run whose detector has begun a second file, ``other.h5``, after three frames."""
    documents = list(stills_run(frames))
    second = dict(documents[2][1], uid="second", uri=f"file://localhost{frames.parent}/other.h5")
    resource = documents[2][1]["uid"]
    made: list[Document] = []
    seen = 0
    for name, doc in documents:
        if name == "stream_datum":
            if seen == rows[0]:
                made.append(("stream_resource", second))
            first = seen if seen < rows[0] else seen - rows[0]
            uid = resource if seen < rows[0] else "second"
            indices = {"start": first, "stop": first + 1}
            doc = {**doc, "stream_resource": uid, "uid": f"{uid}/{first}", "indices": indices}
            seen += 1
        made.append((name, doc))
    return made


def test_frames_of_several_files_can_be_one_virtual_dataset(
    tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
):
    with h5py.File(frames.with_name("other.h5"), "w") as file:
        file["/entry/data/data"] = 7000 + np.arange(4 * 8 * 12, dtype="<u2").reshape(4, 8, 12)
    path = write(tmp_path / "nexus", two_files_run(frames), frames="virtual")
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    shutil.copytree(tmp_path, moved)
    shutil.rmtree(tmp_path / "frames")
    monkeypatch.chdir("/")
    with h5py.File(moved / "nexus" / path.name) as file:
        data = file["entry/instrument/ad1_image/data"]
        assert data.is_virtual
        assert [source.file_name for source in data.virtual_sources()] == [
            "../frames/ad1_0001.h5",
            "../frames/other.h5",
        ]
        assert data.shape == (6, 8, 12)
        assert data[2, 7, 11] == 3 * 96 - 1
        assert data[3, 0, 0] == 7000
        assert data.attrs["units"] == "counts"
        assert data.attrs["target"] == "/entry/instrument/ad1_image/data"
        assert file["entry/data/ad1_image"] == data
    with h5py.File(path) as file:
        # Nobody takes what is not there for dark frames.
        assert file["entry/data/ad1_image"].fillvalue == 65535


@pytest.mark.parametrize("what", ["missing", "short", "another shape"])
def test_frames_that_are_not_all_there_stay_linked(
    tmp_path: Path, frames: Path, caplog: pytest.LogCaptureFixture, what: str
):
    shape = {"short": (2, 8, 12), "another shape": (4, 8, 10)}.get(what)
    if shape is not None:
        with h5py.File(frames.with_name("other.h5"), "w") as file:
            file["/entry/data/data"] = np.zeros(shape, "<u2")
    path = write(tmp_path / "nexus", two_files_run(frames), frames="virtual")
    assert "stay linked, no virtual data set can be made of them" in caplog.text
    with h5py.File(path) as file:
        link = file["entry/instrument/ad1_image"].get("data", getlink=True)
        assert link.filename == "../frames/ad1_0001.h5"
        assert file["entry/data/ad1_image"].shape == (6, 8, 12)


def test_several_frames_per_event_are_counted_in_a_virtual_dataset(tmp_path: Path, frames: Path):
    documents = list(stills_run(frames, 2))
    documents[1][1]["data_keys"]["ad1_image"]["shape"] = [3, 8, 12]
    with h5py.File(write(tmp_path / "nexus", documents, frames="virtual")) as file:
        assert file["entry/instrument/ad1_image/data"].shape == (6, 8, 12)


def retaken(documents: Iterable[Document], number: int) -> Iterator[Document]:
    """A run in which one point is taken again, as after a pause: its frame is in the next row."""
    extra = 0
    datum: Mapping[str, Any] = {}
    for name, doc in documents:
        if name == "stream_datum":
            numbers = moved(doc["indices"], 1)
            datum = dict(doc, indices=moved(doc["indices"], extra), seq_nums=numbers)
            yield name, dict(datum)
            continue
        yield name, doc
        if name == "event" and doc["seq_num"] == number:
            extra = 1
            yield "stream_datum", dict(datum, uid="again", indices=moved(datum["indices"], 1))
            yield "event", {**doc, "uid": "again"}


def moved(indices: Mapping[str, int], by: int) -> dict[str, int]:
    return {"start": indices["start"] + by, "stop": indices["stop"] + by}


@pytest.mark.parametrize(
    ("number", "rows"), [(1, [1, 2, 3, 4, 5]), (3, [0, 1, 3, 4, 5]), (5, [0, 1, 2, 3, 5])]
)
def test_a_virtual_dataset_has_one_frame_of_a_point_that_was_taken_again(
    tmp_path: Path, frames: Path, number: int, rows: list[int]
):
    documents = retaken(stills_run(frames, 5), number)
    path = write(tmp_path / "nexus", documents, frames="virtual")
    with h5py.File(path) as file, h5py.File(frames) as source:
        assert len(file["entry/bluesky/streams/primary/seq_num"]) == 5
        np.testing.assert_array_equal(file["entry/data/ad1_image"], source["entry/data/data"][rows])
        log = file["entry/bluesky/streams/primary/ad1_image"]
        named = log["rows_referenced"].asstr()[()]
        counted = [row for text in named for row in range(*map(int, re.findall(r"\d+", text)[-2:]))]
        assert counted == rows


def test_links_say_which_rows_belong_to_the_events(tmp_path: Path, frames: Path):
    documents = retaken(stills_run(frames, 5), 3)
    with h5py.File(write(tmp_path / "nexus", documents)) as file:
        log = file["entry/bluesky/streams/primary/ad1_image"]
        assert list(log["rows_referenced"].asstr()) == [
            "ad1_0001.h5: 0 to 2",
            "ad1_0001.h5: 3 to 6",
        ]
    with h5py.File(write(tmp_path / "plain", stills_run(frames, 5))) as file:
        assert "rows_referenced" not in file["entry/bluesky/streams/primary/ad1_image"]


def test_strings_arrays_and_surprises_lose_nothing(tmp_path: Path):
    run = Run(plan_name="count", detectors=["d"])
    keys = {
        "text": {"dtype": "string", "shape": []},
        "flag": {"dtype": "boolean", "shape": []},
        "count": {"dtype": "integer", "shape": []},
        "was_integer": {"dtype": "integer", "shape": []},
        "became_text": number(),
        "wave": {"dtype": "array", "shape": [3], "dtype_numpy": "<i4"},
        "ragged": {"dtype": "array", "shape": [2]},
        "labels": {"dtype": "array", "shape": [2], "dtype_numpy": "<U8"},
        "unknown": {"dtype": "array", "shape": [None]},
        "lists": {"dtype": "array", "shape": [2]},
    }
    rows = [
        {
            "text": f"µ{i}", "flag": bool(i % 2), "count": 2**60 + i,
            "was_integer": i if i < 3 else i + 0.5, "became_text": 1.5 if i < 4 else "off",
            "wave": [i, i + 1, i + 2], "ragged": list(range(i)), "labels": ["a", str(i)],
            "unknown": np.arange(i + 1), "lists": [[i], [i, i]],
        }
        for i in range(6)
    ]  # fmt: skip
    keys = {name: {"source": "x", **key} for name, key in keys.items()}
    documents = [run.begin(), run.describe("primary", {"d": keys})]
    documents += [run.event("primary", row) for row in rows]
    # Every row alone, so that each surprise meets a column with rows in it.
    path = write(tmp_path, [*documents, run.stop()], flush_interval=1e-9)
    with h5py.File(path, "r") as file:
        logs = file["entry/bluesky/streams/primary"]
        values = {name: logs[name]["value"] for name in keys}
        assert [v.decode() for v in values["text"]] == [row["text"] for row in rows]
        assert values["flag"][()].tolist() == [False, True] * 3
        assert values["count"][()].tolist() == [2**60 + i for i in range(6)]
        assert values["was_integer"][()].tolist() == [0, 1, 2, 3.5, 4.5, 5.5]
        assert [v.decode() for v in values["became_text"]] == ["1.5"] * 4 + ["off"] * 2
        assert values["wave"].dtype == np.int32
        assert values["wave"][()].tolist() == [row["wave"] for row in rows]
        assert [v.tolist() for v in values["ragged"]] == [row["ragged"] for row in rows]
        assert values["labels"].asstr()[()].tolist() == [row["labels"] for row in rows]
        assert [v.tolist() for v in values["unknown"]] == [list(range(i + 1)) for i in range(6)]
        assert [json.loads(v) for v in values["lists"]] == [row["lists"] for row in rows]
        # Links lead to the column that took the place of the first one.
        assert file["entry/instrument/was_integer/data"] == values["was_integer"]


@pytest.mark.parametrize("flush_interval", [1e-9, 60.0])
@pytest.mark.parametrize(
    ("declared", "rows", "signals", "axes"),
    [
        ({"a": [3]}, [{"a": [1, 2, 3]}, {"a": [1, 2]}, {"a": [1]}], [], None),
        ({"a": [None]}, [{"a": [1, 2, 3]}, {"a": [1, 2]}], [], None),
        ({"a": [2, 2]}, [{"a": np.ones((2, 2))}, {"a": np.ones((3, 2))}], [], None),
        ({"a": [2]}, [{"a": ["x", "y"]}], [], None),
        ({"a": [3]}, [{"a": np.ones((4, 2))}], ["a"], ["time", ".", "."]),
        ({"a": []}, [{"a": 1.0}, {"a": "off"}], [], None),
        ({"a": [], "b": []}, [{"a": 1.0, "b": 2}, {"a": "off", "b": 3}], ["b"], ["time"]),
        ({"b": [], "a": []}, [{"a": 1.0, "b": 2}, {"a": "off", "b": 3}], ["b"], ["time"]),
        ({"b": [], "a": []}, [{"a": [1, 2], "b": 2}, {"a": [3, 4], "b": 3}], ["b"], ["time"]),
        ({"a": [], "b": []}, [{"a": [1, 2], "b": 2}], ["a"], ["time", "."]),
        ({"a": [], "b": []}, [{"a": 1, "b": 2}, {"a": 0.5, "b": 3}], ["a", "b"], ["time"]),
    ],
)
def test_a_plot_shows_numbers_of_one_shape(
    tmp_path: Path, declared: Any, rows: Any, signals: Any, axes: Any, flush_interval: float
):
    run = Run(plan_name="count", detectors=["d"])
    keys = {
        name: {"source": "x", "dtype": "array" if shape else "number", "shape": shape}
        for name, shape in declared.items()
    }
    documents = [run.begin(), run.describe("primary", {"d": keys}, hints={})]
    documents += [run.event("primary", row) for row in rows]
    path = write(tmp_path, [*documents, run.stop()], flush_interval=flush_interval)
    with h5py.File(path, "r") as file:
        assert len(file["entry/bluesky/streams/primary/a/value"]) == len(rows)
        if not signals:
            assert "default" not in file["entry"].attrs
            assert not [
                group for group in file["entry"].values() if group.attrs.get("NX_class") == "NXdata"
            ]
            return
        plot = file["entry"][file["entry"].attrs["default"]]
        shown = [plot.attrs["signal"], *plot.attrs.get("auxiliary_signals", ())]
        assert shown == signals
        assert list(plot.attrs["axes"]) == axes
        assert plot[signals[0]].ndim == len(axes)
        assert len(plot["time"]) == len(rows)


def test_a_key_of_varying_length_is_not_drawn_on_request(tmp_path: Path):
    run = Run(plan_name="count", detectors=["d"], nexus={"signal": "a"})
    keys = {"a": {"source": "x", "dtype": "array", "shape": [None]}, "b": number()}
    documents = [run.begin(), run.describe("primary", {"d": keys})]
    documents += [run.event("primary", {"a": [1] * n, "b": n}) for n in (1, 2)]
    with h5py.File(write(tmp_path, [*documents, run.stop()]), "r") as file:
        assert file["entry/data"].attrs["signal"] == "b"


def test_none_in_an_event_is_not_a_number(tmp_path: Path):
    run = Run(plan_name="count")
    keys = {"d": {"a": number(), "n": {"source": "x", "dtype": "integer", "shape": []}}}
    documents = [run.begin(), run.describe("primary", keys)]
    documents += [run.event("primary", {"a": v, "n": v}) for v in (1, None, 3)]
    with h5py.File(write(tmp_path, [*documents, run.stop()])) as file:
        logs = file["entry/bluesky/streams/primary"]
        np.testing.assert_array_equal(logs["a/value"], [1, np.nan, 3])
        np.testing.assert_array_equal(logs["n/value"], [1, np.nan, 3])


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(["primary", "det", "m", "x", "rectilinear", "NXxas", "NXmonopd",
                         "NXsas", "K", "Cu"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["name", "source", "monochromator", "reflection", "d_spacing", "dimensions",
                 "gridding", "roles", "fields", "signal", "definition", "args", "i0", "bluesky",
                 "type", "geometry", "distance", "two_theta", "idiffr"]
            ),
            inner, max_size=3,
        ),
    ),
    max_leaves=8,
)  # fmt: skip
READ_KEYS = [
    "sample", "instrument", "hints", "shape", "extents", "snaking", "plan_args", "motors",
    "detectors", "users", "user", "nexus", "num_points", "title", "mode", "e0", "element", "edge",
    "versions", "proposal_id", "plan_name", "scan_id", "beamline_id",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(READ_KEYS), VALUES))
def test_no_metadata_can_stop_a_scan(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]
):
    run = Run(**metadata)
    run.start.update(metadata)
    keys = {"det": {"i0": number(), "x": number("um")}, "m": {"m": number("um")}}
    documents = [run.begin(), run.describe("primary", keys)]
    documents += [run.event("primary", {"i0": 1.0, "x": 2.0, "m": float(i)}) for i in range(2)]
    with h5py.File(write(tmp_path_factory.mktemp("any"), [*documents, run.stop()])) as file:
        assert file["entry/bluesky/streams/primary/m/value"][()].tolist() == [0, 1]


KEY = st.fixed_dictionaries(
    {"source": st.text(max_size=3)},
    optional={
        "dtype": st.sampled_from(["number", "integer", "boolean", "string", "array", "other"]),
        "shape": st.lists(st.one_of(st.none(), st.integers(-1, 3)), max_size=3),
        "units": st.one_of(st.none(), st.text(max_size=3), st.integers()),
        "dtype_numpy": st.sampled_from(
            ["<f4", "<u2", "|b1", "<U3", "|O", "nonsense", "<c16", ">i4"]
        ),
        "external": st.sampled_from(["", "STREAM:", "FILESTORE:"]),
        "precision": st.integers(),
    },
)


@given(
    st.dictionaries(st.text(max_size=4), KEY, max_size=4),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["d", "e"]), VALUES, max_size=2)),
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.floats(), st.text()), max_size=2),
    st.data(),
)
def test_no_data_key_and_no_value_can_stop_a_scan(
    tmp_path_factory: pytest.TempPathFactory, keys: Any, hints: Any, settings_: Any, data: Any
):
    run = Run(plan_name="any", detectors=["d"], motors=["e"])
    configuration = {"d": {"data": settings_, "timestamps": {}, "data_keys": {}}}
    descriptor = run.describe("primary", {"d": {}, "e": {}}, configuration=configuration)
    descriptor[1].update(data_keys=keys, hints=hints, object_keys={"d": list(keys), "e": []})
    documents = [run.begin(), descriptor]
    drawn = [name for name, key in keys.items() if key.get("external") != "STREAM:"]
    for row in range(1, 4):
        values = {name: data.draw(VALUES) for name in drawn}
        event = {
            "uid": f"{row}", "descriptor": descriptor[1]["uid"], "seq_num": row, "time": run.clock,
            "data": values, "timestamps": dict.fromkeys(values, run.clock), "filled": {},
        }  # fmt: skip
        documents.append(("event", event))
    stop = run.stop()
    stop[1]["num_events"] = {"primary": 3}
    path = write(
        tmp_path_factory.mktemp("any"), [*documents, stop],
        flush_interval=data.draw(st.sampled_from([1e-9, 1.0])),
    )  # fmt: skip
    with h5py.File(path) as file:
        assert file["entry/bluesky/streams/primary/seq_num"][()].tolist() == [1, 2, 3]


# --- ways of arriving ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000, 5000])
def test_pages_and_events_give_the_same_file(tmp_path: Path, size: int):
    documents = list(xafs_run(2100))
    events = write(tmp_path / "events", documents)
    pages = write(tmp_path / "pages", paged(documents, size))
    assert compare_files(events, pages) == []


@pytest.mark.parametrize(
    "options",
    [
        {"compression": 1},
        {"flush_interval": 1e-9},
        {"swmr": True},
        {"swmr": True, "flush_interval": 1e-9},
    ],
)
def test_compression_and_flushing_do_not_change_the_data(tmp_path: Path, options: dict[str, Any]):
    documents = list(mesh_run((30, 12)))
    plain = write(tmp_path / "plain", documents)
    assert compare_files(plain, write(tmp_path / "other", documents, **options)) == []


@pytest.mark.parametrize("flush_interval", [1e-9, 60.0])
def test_late_descriptors_and_surprises_can_be_written_in_swmr_mode(
    tmp_path: Path, flush_interval: float
):
    run = Run(plan_name="count", detectors=["d"])
    text = {"source": "x", "dtype": "string", "shape": []}
    documents = [run.begin(), run.describe("primary", {"d": {"a": number(), "t": text}})]
    documents += [run.event("primary", {"a": float(i), "t": f"{i}"}) for i in range(3)]
    documents += [run.describe("late", {"e": {"b": number()}}), run.event("late", {"b": 5.0})]
    documents += [run.event("primary", {"a": "off", "t": "end"}), run.stop()]
    plain = write(tmp_path / "plain", documents)
    swmr = write(tmp_path / "swmr", documents, swmr=True, flush_interval=flush_interval)
    assert compare_files(plain, swmr) == []


def test_compression_flushed_in_small_steps_is_not_bloated(tmp_path: Path):
    documents = list(paged(line_run(5000), 100))
    often = write(tmp_path / "often", documents, compression=1, flush_interval=1e-9)
    once = write(tmp_path / "once", documents, compression=1)
    assert compare_files(often, once) == []
    assert often.stat().st_size < 1.2 * once.stat().st_size
    assert often.stat().st_size < 0.6 * write(tmp_path / "plain", documents).stat().st_size


def test_interleaved_runs_have_their_own_data(tmp_path: Path):
    first, second = list(line_run(30, scan_id=1)), list(line_run(30, scan_id=2))
    alone = [write(tmp_path / "alone", documents) for documents in (first, second)]
    writer = NeXusWriter(tmp_path / "together")
    for a, b in zip(first, second, strict=True):
        writer(*a)
        writer(*b)
    for path in alone:
        assert compare_files(path, tmp_path / "together" / path.name) == []
    assert len(writer.files) == 2


def test_a_point_taken_again_replaces_the_first_attempt(tmp_path: Path):
    run = Run(plan_name="scan", detectors=["d"])
    documents = [run.begin(), run.describe("primary", {"d": {"a": number()}})]
    for seq_num, a in ((1, 10), (2, 20), (3, -1), (3, 30), (4, 40), (2, 21), (5, 50)):
        name, doc = run.event("primary", {"a": a})
        documents.append((name, {**doc, "seq_num": seq_num}))
    documents.append(run.stop())
    whole = write(tmp_path / "whole", documents)
    single = write(tmp_path / "single", documents, flush_interval=1e-9)
    for path in (whole, single):
        with h5py.File(path) as file:
            log = file["entry/bluesky/streams/primary"]
            assert log["a/value"][()].tolist() == [10, 21, 30, 40, 50]
            assert log["seq_num"][()].tolist() == [1, 2, 3, 4, 5]


def test_points_taken_again_are_replaced_in_compressed_columns(tmp_path: Path):
    run = Run(plan_name="scan", detectors=["d"])
    keys = {"a": number(), "n": {"source": "x", "dtype": "integer", "shape": []}}
    documents = [run.begin(), run.describe("primary", {"d": keys})]
    expected = {}
    for row in [*range(1, 161), 150, 3, 64, 65, 160, *range(161, 200), 1, 199]:
        name, doc = run.event("primary", {"a": float(len(documents)), "n": row})
        expected[row] = float(len(documents))
        documents.append((name, {**doc, "seq_num": row}))
    documents.append(run.stop())
    start = documents[0][1]
    start["num_points"] = 64  # chunks of as many rows
    path = write(tmp_path, documents, flush_interval=1e-9, compression=1)
    with h5py.File(path) as file:
        log = file["entry/bluesky/streams/primary"]
        assert log["a/value"].chunks == (64,)
        assert log["a/value"][()].tolist() == [expected[row] for row in range(1, 200)]
        assert log["n/value"][()].tolist() == list(range(1, 200))


def test_a_surprise_in_a_compressed_column_loses_nothing(tmp_path: Path):
    run = Run(plan_name="scan", detectors=["d"], num_points=64)
    keys = {"n": {"source": "x", "dtype": "integer", "shape": []}}
    documents = [run.begin(), run.describe("primary", {"d": keys})]
    rows = [*range(100), 0.5, *range(50)]
    documents += [run.event("primary", {"n": value}) for value in rows]
    path = write(tmp_path, [*documents, run.stop()], flush_interval=1e-9, compression=1)
    with h5py.File(path) as file:
        assert file["entry/bluesky/streams/primary/n/value"][()].tolist() == rows


def test_a_mesh_point_taken_again_is_in_its_place_once(tmp_path: Path):
    documents = list(mesh_run((2, 3)))
    number_of_events = sum(name == "event" for name, _ in documents)
    place = next(i for i, (name, _) in enumerate(documents) if name == "event") + 2
    name, doc = documents[place]
    again = (name, {**doc, "uid": "again", "data": {**doc["data"], "i0": 999.0}})
    with h5py.File(write(tmp_path, [*documents[: place + 1], again, *documents[place + 1 :]])) as f:
        assert f["entry/instrument/i0/data"].shape == (number_of_events,)
        assert f["entry/data/i0"][0, 2] == 999.0


def test_a_second_descriptor_of_a_stream_continues_it(tmp_path: Path):
    run = Run(plan_name="scan", detectors=["d"])
    configuration = {"d": {"data": {"gain": 1}, "timestamps": {"gain": 0.0}, "data_keys": {}}}
    documents = [run.begin()]
    documents.append(run.describe("primary", {"d": {"a": number()}}, configuration=configuration))
    documents += [run.event("primary", {"a": float(i)}) for i in range(3)]
    configuration = {"d": {"data": {"gain": 2}, "timestamps": {"gain": 0.0}, "data_keys": {}}}
    keys = {"d": {"a": number(), "b": number()}}
    documents.append(run.describe("primary", keys, configuration=configuration))
    for i in range(3, 5):
        name, doc = run.event("primary", {"a": float(i), "b": 1.0})
        documents.append((name, {**doc, "seq_num": i + 1}))
    documents.append(run.stop())
    with h5py.File(write(tmp_path, documents)) as file:
        log = file["entry/bluesky/streams/primary"]
        assert log["a/value"][()].tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(log["b/value"], [np.nan] * 3 + [1, 1])
        assert log["configuration/d/gain"][()] == 1
        assert log["configuration_2/d/gain"][()] == 2


def test_a_late_descriptor_has_its_stream(tmp_path: Path):
    documents = list(line_run(5))
    run_start = documents[0][1]["uid"]
    key = {"source": "x", "dtype": "number", "shape": []}
    late = {
        "uid": "late", "run_start": run_start, "name": "monitor", "time": 0.0,
        "data_keys": {"m": key}, "object_keys": {"m": ["m"]}, "hints": {}, "configuration": {},
    }  # fmt: skip
    event = {
        "uid": "e", "descriptor": "late", "seq_num": 1, "time": documents[0][1]["time"] + 1,
        "data": {"m": 5.0}, "timestamps": {"m": documents[0][1]["time"]}, "filled": {},
    }  # fmt: skip
    documents[-1:-1] = [("descriptor", late), ("event", event)]
    with h5py.File(write(tmp_path, documents)) as file:
        assert file["entry/bluesky/streams/monitor/m/value"][()].tolist() == [5.0]
        assert file["entry/bluesky/streams/monitor/m/time"][()].tolist() == [0.0]
        assert file["entry"].attrs["default"] == "data"


@pytest.mark.parametrize("with_descriptor", [True, False])
def test_a_run_without_events_is_a_valid_labelled_file(tmp_path: Path, with_descriptor: bool):
    documents = list(xafs_run(0))
    if not with_descriptor:
        documents = [documents[0], documents[-1]]
    documents[-1][1].update(exit_status="fail", reason="the shutter did not open")
    with h5py.File(write(tmp_path, documents)) as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert file["entry/reason"][()] == b"the shutter did not open"
        assert ("definition" in file["entry"]) == with_descriptor
        if with_descriptor:
            assert file["entry/intensity"].shape == (0,)


def test_the_name_is_made_from_the_start_document():
    start = {"uid": "0123456789", "scan_id": 12, "plan_name": "a/b c"}
    assert file_name(start) == "00012_a_b_c_01234567.nxs"
    assert file_name({"uid": "0123456789"}) == "00000_run_01234567.nxs"
    assert file_name({**start, "scan_id": np.int64(3)}) == "00003_a_b_c_01234567.nxs"


@pytest.mark.parametrize("options", [{}, {"compression": 1}, {"swmr": True}])
def test_what_is_derived_from_another_stream_has_its_earlier_rows(
    tmp_path: Path, options: dict[str, Any]
):
    # The baseline is on disk before the primary descriptor asks for the wavelength.
    path = write(tmp_path, powder_run(), flush_interval=1e-9, **options)
    with h5py.File(path) as file:
        wavelength = file["entry/instrument/crystal/wavelength"]
        np.testing.assert_allclose(wavelength, [12398.419843 / 9000.0] * 2)


# --- live ---------------------------------------------------------------------------------------


def test_rows_are_on_disk_before_the_run_has_ended(tmp_path: Path):
    writer = NeXusWriter(tmp_path, flush_interval=0.1)
    documents = list(line_run(30))
    for name, doc in documents[:20]:
        writer(name, doc)
    (part,) = tmp_path.glob("*.nxs.part")
    deadline = time.monotonic() + 60
    rows = 0
    # Nothing more is delivered: what waits goes to disk by itself.
    while rows < 18 and time.monotonic() < deadline:
        with h5py.File(part, "r", locking=False) as file:
            rows = len(file["entry/data/i0"])
        time.sleep(0.02)
    assert rows == 18
    assert writer.files == []
    writer.close()
    assert part.exists()


def test_closing_leaves_a_readable_part(tmp_path: Path):
    with NeXusWriter(tmp_path) as writer:
        for name, doc in list(line_run(30))[:20]:
            writer(name, doc)
    (part,) = tmp_path.glob("*.nxs.part")
    with h5py.File(part, "r") as file:
        assert file["entry/data/i0"].shape == (18,)
        assert "end_time" not in file["entry"]


# --- errors -------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write NeXus files to .*file/nexus: Not a dir"):
        NeXusWriter(tmp_path / "file" / "nexus")


@pytest.mark.parametrize(
    "options",
    [{"compression": 10}, {"flush_interval": 0}, {"frames": "copy"},
     {"swmr": True, "compression": 1}],
)  # fmt: skip
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        NeXusWriter(tmp_path, **options)


def test_a_file_that_exists_is_never_replaced(tmp_path: Path):
    documents = list(line_run(5))
    path = write(tmp_path, documents)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="exists already"):
        write(tmp_path, documents)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_the_part_of_a_killed_writer_is_replaced(tmp_path: Path):
    documents = list(line_run(5))
    (tmp_path / (file_name(documents[0][1]) + ".part")).write_bytes(b"half a file")
    with h5py.File(write(tmp_path, documents)) as file:
        assert file["entry/data/i0"].shape == (5,)


def test_two_writers_of_one_run_are_refused(tmp_path: Path):
    documents = list(line_run(5))
    first, second = NeXusWriter(tmp_path), NeXusWriter(tmp_path)
    first(*documents[0])
    with pytest.raises(StorageError, match="another process"):
        second(*documents[0])
    for name, doc in documents[1:]:
        first(name, doc)
    assert len(first.files) == 1


def test_an_event_of_an_unknown_descriptor_is_named_and_the_run_goes_on(tmp_path: Path):
    documents = list(line_run(5))
    writer = NeXusWriter(tmp_path)
    for name, doc in documents[:4]:
        writer(name, doc)
    stray = {**documents[3][1], "descriptor": "nobody"}
    with pytest.raises(MissingError, match="nobody"):
        writer("event", stray)
    for name, doc in documents[4:]:
        writer(name, doc)
    with h5py.File(writer.files[0]) as file:
        assert file["entry/data/i0"].shape == (5,)


def test_an_event_without_a_key_is_named_and_the_run_goes_on(tmp_path: Path):
    documents = list(line_run(5))
    bad = {**documents[3][1], "data": {k: 1.0 for k in documents[3][1]["data"] if k != "itrans"}}
    writer = NeXusWriter(tmp_path)
    for name, doc in documents:
        if doc is documents[3][1]:
            with pytest.raises(DocumentError, match=r"event 2 of stream 'primary': .*'itrans'"):
                writer("event", bad)
        else:
            writer(name, doc)
    with h5py.File(writer.files[0]) as file:
        assert file["entry/bluesky/streams/primary/seq_num"][()].tolist() == [1, 3, 4, 5]


def test_a_page_with_columns_of_different_length_is_named(tmp_path: Path):
    documents = list(paged(line_run(5), 5))
    name, page = documents[2]
    page["data"]["i0"] = page["data"]["i0"][:3]
    writer = NeXusWriter(tmp_path)
    feed(writer, documents[:2])
    with pytest.raises(DocumentError, match="events 1 to 5 of stream"):
        writer(name, page)
    writer(*documents[-1])
    assert len(writer.files) == 1


@pytest.mark.parametrize("key", ["seq_num", "time", "timestamps"])
def test_an_event_without_a_part_of_it_costs_no_other_event(tmp_path: Path, key: str):
    writer = NeXusWriter(tmp_path)
    documents = list(line_run(points=4))
    place = [i for i, (name, _) in enumerate(documents) if name == "event"][1]
    broken = {k: v for k, v in documents[place][1].items() if k != key}
    for i, (name, doc) in enumerate(documents):
        if i == place:
            with pytest.raises(KeyError, match=key):
                writer(name, broken)
        writer(name, doc)
    with h5py.File(writer.files[0]) as file:
        assert file["entry/bluesky/streams/primary/seq_num"][()].tolist() == [1, 2, 3, 4]


def test_frames_that_are_missing_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path, stills_run(tmp_path / "gone.h5"))
    assert "gone.h5" in caplog.text
    with h5py.File(path) as file:
        assert file["entry/bluesky/streams/primary/mono_energy/value"].shape == (6,)


def test_a_run_with_another_number_of_events_than_announced_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    documents = list(line_run(5))
    write(tmp_path, [*documents[:4], *documents[5:]])
    assert "'primary' has 4 events here, the stop document says 5" in caplog.text


# --- comparison ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f["entry/intensity"].__setitem__(3, 0.0), "/entry/intensity differs in 1 of 60"),
        (lambda f: f["entry/energy"].attrs.__setitem__("units", "keV"), "@units"),
        (lambda f: f["entry"].__delitem__("title"), "/entry/title is only in the first"),
        (lambda f: f["entry"].__setitem__("more", 1), "/entry/more is only in the second"),
        (lambda f: f["entry"].attrs.__delitem__("default"), "@default is only in the first"),
        (
            lambda f: (
                f["entry"].__delitem__("scan_id"),
                f["entry"].__setitem__("scan_id", np.int32(7)),
            ),
            "/entry/scan_id is int64 () in the first file and int32",
        ),
        (
            lambda f: (
                f["entry"].__delitem__("sample"),
                f["entry"].__setitem__("sample", h5py.SoftLink("/entry/user")),
            ),
            "/entry/sample is a different kind of link",
        ),
        (
            lambda f: f["entry/title"].__setitem__((), "another"),
            "/entry/title differs in 1 of 1",
        ),
    ],
)
def test_every_difference_is_found(tmp_path: Path, change: Any, told: str):
    path = write(tmp_path, xafs_run(60))
    other = tmp_path / "other.nxs"
    shutil.copy(path, other)
    assert compare_files(path, other) == []
    with h5py.File(other, "r+") as file:
        change(file)
    assert any(told in difference for difference in compare_files(path, other))


def test_links_into_other_files_are_compared_by_where_they_lead(tmp_path: Path, frames: Path):
    documents = list(stills_run(frames))
    near = write(tmp_path / "near", documents)
    far = write(tmp_path / "some" / "where" / "far", documents)
    assert compare_files(near, far) == []
    documents[2][1]["uri"] = documents[2][1]["uri"].replace("0001", "0002")
    other = write(tmp_path / "other", documents)
    assert any("ad1_0002.h5" in difference for difference in compare_files(near, other))


def test_what_is_no_hdf5_file_is_named(tmp_path: Path):
    (tmp_path / "x.nxs").write_text("no")
    with pytest.raises(FileFormatError, match=r"x\.nxs"):
        compare_files(tmp_path / "x.nxs", tmp_path / "x.nxs")
