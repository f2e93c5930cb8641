"""Checks in plain words find what is wrong, and repair leaves a valid file or the original."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from nexus_documents import Run, feed, line_run, stills_run, xafs_run
from test_cxi_writer import frame, frame_file, stills

from beamline.cli import main
from beamline.core.errors import FileFormatError, StorageError
from beamline.documents import Journal, JournalWriter
from beamline.documents._records import JournalReader
from beamline.validation.check import check_file, kind_of
from beamline.validation.journal import document_problems
from beamline.validation.nexus import plot_problems
from beamline.validation.repair import REASON, repair_file
from beamline.validation.superblock import clear_flags, flags, lookup3, read_superblock
from callbacks.cxi import CXIWriter
from callbacks.nexus import NeXusWriter


def nexus(directory: Path, documents, **options) -> Path:
    writer = NeXusWriter(directory, **options)
    feed(writer, documents)
    writer.close()
    return next(path for path in directory.iterdir())


def beamline(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
    return code, out.getvalue()


# --- superblocks ----------------------------------------------------------------------------------


def test_lookup3_agrees_with_its_inventor():
    """The values of Jenkins' own driver."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_superblocks_of_all_versions(tmp_path: Path, libver: str, userblock: int):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        file["x"] = np.arange(1000)
    block = read_superblock(path)
    assert block.offset == userblock
    assert block.flags == 0
    assert block.end == path.stat().st_size
    assert not clear_flags(path)


KILLED = """
    import os, signal, sys, h5py
    file = h5py.File(sys.argv[1], "w", libver="latest")
    column = file.create_dataset("x", (0,), maxshape=(None,), chunks=(64,), dtype="i4")
    if sys.argv[2] == "swmr":
        file.swmr_mode = True
    for n in range(100):
        column.resize(n + 1, axis=0); column[n] = n
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("mode", ["swmr", "plain"])
def test_a_killed_writer_leaves_marks_that_can_be_cleared(tmp_path: Path, mode: str):
    path = tmp_path / "file.h5"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), path, mode], check=False)
    assert done.returncode == -signal.SIGKILL
    assert flags(path)
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, locking=False)
    code, said = beamline("validate", path)
    assert code == 1
    assert "--repair clears it" in said
    code, said = beamline("validate", "--repair", path)
    assert "marks of the killed writer were cleared" in said
    with h5py.File(path) as file:
        assert list(file["x"]) == list(range(100))


@pytest.mark.parametrize("what", ["empty", "text", "half", "head", "bit"])
def test_what_is_damaged_is_one_sentence_and_stays(tmp_path: Path, what: str):
    path = tmp_path / "file.nxs"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.arange(10000)
    whole = path.read_bytes()
    bit = bytearray(whole)
    bit[20] ^= 1
    damaged = {"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2],
               "head": whole[:30], "bit": bytes(bit)}[what]  # fmt: skip
    path.write_bytes(damaged)
    code, said = beamline("validate", path)
    assert code == 1
    assert said.count("✗") == 1
    with contextlib.suppress(FileFormatError):
        repair_file(path)
        pytest.fail("what is damaged beyond its end was called repaired") if what != "half" else 0
    if what != "half":
        assert path.read_bytes() == damaged
    assert [p.name for p in tmp_path.iterdir()] == ["file.nxs"]


# --- NeXus ----------------------------------------------------------------------------------------


def test_a_good_file_passes_and_one_without_a_required_field_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    good, bad = nexus(tmp_path / "a", xafs_run()), nexus(tmp_path / "b", xafs_run())
    # As people type them: relative to the working directory.
    monkeypatch.chdir(tmp_path)
    good, bad = good.relative_to(tmp_path), bad.relative_to(tmp_path)
    with h5py.File(bad, "r+") as file:
        del file["entry/instrument/source/probe"]
        del file["entry/end_time"]
        file["entry/start_time"][()] = "yesterday"
    code, said = beamline("validate", good, bad)
    assert code == 1
    of_good, _, of_bad = said.partition(str(bad))
    for words in ("a valid NXxas by the official", "a valid NXxas by the community",
                  "NXxas_trans by the community", "has a default plot"):  # fmt: skip
        assert words in of_good
    assert "✗" not in of_good
    assert "is not in the NeXus file (/entry/instrument/source/probe)" in of_bad
    assert "/entry/start_time must be a time with its zone (ISO 8601), found 'yesterday'" in of_bad
    assert "ValidationProblem" not in of_bad
    assert "has no end_time" in of_bad


def test_without_the_validators_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = nexus(tmp_path / "a", line_run())
    monkeypatch.setattr("beamline.validation.nexus.installed", lambda: False)
    code, said = beamline("validate", path)
    assert code == 1
    assert "pip install 'beamline-dataflow[validate]'" in said


BROKEN_PLOTS = {
    "no default": (lambda f: f.attrs.pop("default"), "no @default"),
    "default nowhere": (lambda f: f.attrs.modify("default", "away"), "'away', which is not there"),
    "no signal": (lambda f: f["entry/data"].attrs.pop("signal"), "has no @signal"),
    "signal missing": (lambda f: f["entry/data"].attrs.modify("signal", "x"), "can't be opened"),
    "too many axes": (
        lambda f: f["entry/data"].attrs.create("axes", ["sample_x", "."]), "names 2 axes",
    ),
    "short axis": (lambda f: f["entry/data/sample_x"].resize(3, axis=0), "has 3 values"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_PLOTS)
def test_a_plot_that_cannot_be_drawn_is_named(tmp_path: Path, kind: str):
    path = nexus(tmp_path / "a", line_run())
    change, words = BROKEN_PLOTS[kind]
    with h5py.File(path, "r+") as file:
        assert plot_problems(file) == []
        change(file)
        assert words in " ".join(plot_problems(file))


def test_a_run_that_recorded_nothing_needs_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("beamline.validation.nexus.installed", lambda: False)
    run = Run(plan_name="count", num_points=0)
    path = nexus(tmp_path / "a", [run.begin(), run.stop()])
    assert (True, "has no default plot, as no numbers were recorded") in check_file(path).lines
    path = nexus(tmp_path / "b", line_run())
    with h5py.File(path, "r+") as file:
        del file["entry/data"]
        assert "which is not there" in " ".join(plot_problems(file))
        del file["entry"].attrs["default"]
    assert any("nothing is drawn" in line for good, line in check_file(path).lines if not good)


def test_missing_frames_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("beamline.validation.nexus.installed", lambda: False)
    frames = tmp_path / "frames.h5"
    with h5py.File(frames, "w") as file:
        file["/entry/data/data"] = np.zeros((6, 8, 12), np.uint16)
    path = nexus(tmp_path / "a", stills_run(frames))
    frames.unlink()
    lines = [line for good, line in check_file(path).lines if not good]
    assert any(str(frames) in line and "not there" in line for line in lines)


def test_an_unfinished_file_becomes_a_labelled_one(tmp_path: Path):
    documents = list(line_run())[:10]
    part = nexus(tmp_path / "a", documents)
    assert part.name.endswith(".part")
    with h5py.File(part, "r+") as file:
        file["entry/data/i0"].resize(6, axis=0)
    place, done = repair_file(part)
    assert not part.exists()
    assert [path.name for path in place.parent.iterdir()] == [part.name.removesuffix(".part")]
    assert any("6 rows" in line for line in done)
    with h5py.File(place) as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert file["entry/reason"][()].decode() == REASON
        assert "end_time" in file["entry"]
        assert len(file["entry/data/sample_x"]) == len(file["entry/data/i0"]) == 6
        assert plot_problems(file) == []
    assert repair_file(place) == (place, [])


def test_repair_destroys_nothing(tmp_path: Path):
    part = nexus(tmp_path / "a", list(line_run())[:10])
    place = part.with_name(part.name.removesuffix(".part"))
    place.write_text("mine")
    with pytest.raises(StorageError, match="there is such a file"):
        repair_file(part)
    assert place.read_text() == "mine"
    writer = NeXusWriter(tmp_path / "b")
    feed(writer, list(line_run())[:10])
    growing = next((tmp_path / "b").iterdir())
    with pytest.raises(StorageError, match="is being written"):
        repair_file(growing)
    writer.close()


# --- CXI -----------------------------------------------------------------------------------------


def test_an_unfinished_cxi_file_becomes_a_labelled_one(tmp_path: Path):
    frames = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, 8)])
    writer = CXIWriter(tmp_path / "a")
    feed(writer, stills(frames, 7)[:-1])
    writer.close()
    (growing,) = (tmp_path / "a").glob("*.inprogress")
    code, said = beamline("validate", growing)
    assert code == 1
    assert "its writer was killed" in said
    with h5py.File(growing, "r+") as file:
        file["entry_1/event_id"].resize(5, axis=0)
    code, said = beamline("validate", "--repair", growing)
    assert code == 0, said
    with h5py.File(growing.with_name(growing.name.removesuffix(".inprogress"))) as file:
        assert file["entry_1/exit_status"][()] == b"fail"
        assert len(file["LCLS/photon_energy_eV"]) == 5
    assert not growing.exists()


# --- frames ---------------------------------------------------------------------------------------


def detector_file(path: Path, *, rows: int = 5, complete: int = 1) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["complete"] = complete
        data = file.create_dataset(
            "entry/data/data", (5, 4, 4), "u2", maxshape=(None, 4, 4), chunks=(1, 4, 4)
        )
        data[:rows] = 1
        for name in ("NDArrayTimeStamp", "NDArrayUniqueId", "PhotonEnergy"):
            file.create_dataset(
                f"entry/instrument/NDAttributes/{name}", data=np.arange(5.0), maxshape=(None,)
            )
    return path


def test_frame_files(tmp_path: Path):
    path = detector_file(tmp_path / "f.h5")
    assert kind_of(path) == "frames"
    assert check_file(path).passed
    with h5py.File(path, "r+") as file:
        file["entry/instrument/NDAttributes/PhotonEnergy"].resize(3, axis=0)
        file.attrs["complete"] = 0
    said = " ".join(line for good, line in check_file(path).lines if not good)
    assert "complete is 0" in said
    assert "PhotonEnergy 3" in said
    repair_file(path)
    assert check_file(path).passed
    with h5py.File(path) as file:
        assert len(file["entry/data/data"]) == 3
        assert file.attrs["complete"] == 0
    holes = detector_file(tmp_path / "holes.h5", rows=3)
    said = " ".join(line for good, line in check_file(holes).lines if not good)
    assert "2 of 5 chunks" in said


# --- journals -------------------------------------------------------------------------------------


def test_journals(tmp_path: Path):
    with JournalWriter(tmp_path) as journal:
        feed(journal, line_run())
    path = Journal(tmp_path).find(-1).path
    report = check_file(path)
    assert report.kind == "journal"
    assert report.passed, report.lines
    sound = path.read_bytes()
    whole = bytearray(sound)
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    code, said = beamline("validate", path)
    assert code == 1
    assert "the checksum is wrong" in said
    with JournalReader(path) as reader:
        begins = [reader.begin for _ in reader]
    path.write_bytes(whole[: begins[-1]])
    code, said = beamline("validate", path)
    assert "no stop document" in said
    code, said = beamline("validate", "--repair", path)
    assert code == 1
    assert "damaged records were left out: 1 record is lost" in said
    assert "event 10 is missing in stream 'primary'" in said
    path.write_bytes(sound[: begins[-1]])
    code, said = beamline("validate", "--repair", path)
    assert code == 0, said
    assert "stop document was added" in said


def broken(documents, kind):
    documents = [(name, dict(doc)) for name, doc in documents]
    if kind == "schema":
        documents[4][1]["seq_num"] = "four"
    elif kind == "descriptor":
        documents[4][1]["descriptor"] = "nobody"
    elif kind == "key":
        documents[4][1]["data"] = {
            key: value for key, value in documents[4][1]["data"].items() if key != "i0"
        }
    elif kind == "number":
        documents[-1][1]["num_events"] = {"primary": 99}
    return documents


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("schema", "seq_num: 'four' is not of type 'integer'"),
        ("descriptor", "unknown descriptor nobody"),
        ("key", "event 3 of stream 'primary' has no value for data key 'i0'"),
        ("number", "'primary' has 21 events, the stop document says 99"),
    ],
)
def test_documents_that_break_the_rules_are_named(kind, words):
    documents = list(line_run())
    assert list(document_problems(iter(documents))) == []
    (said,) = document_problems(iter(broken(documents, kind)))
    assert words in said


def test_missing_external_files_are_named_with_their_key(tmp_path: Path):
    (said,) = document_problems(stills_run(tmp_path / "away.h5"))
    assert "'ad1_image'" in said
    assert str(tmp_path / "away.h5") in said


@pytest.mark.parametrize("arguments", [(), ("nowhere.nxs",), ("--mend", __file__), (".",)])
def test_unusable_arguments(arguments):
    assert beamline("validate", *arguments)[0] == 2
