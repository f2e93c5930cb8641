"""Runs that were cut off: their files are completed from the journal, once, and nothing is lost."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from nexus_documents import (
    Run,
    counter_keys,
    line_run,
    mesh_run,
    motor_keys,
    stills_run,
    xafs_run,
)
from test_cxi_writer import feed, frame, frame_file, stills

from beamline.cli import main
from beamline.crystallography.cxi_check import check_cxi
from beamline.documents import Journal, JournalError, JournalWriter, read_journal
from beamline.documents._records import JournalReader
from beamline.documents.mending import CUT_TAIL, DAMAGED, complete_journal
from beamline.documents.replay import CUT_OFF, completed, replay
from beamline.nexus.compare import compare_files
from beamline.recovery import recover, unknown_leftovers
from callbacks.cxi import CXIWriter
from callbacks.nexus import NeXusWriter, file_name


def record(directory: Path, documents, *, until: int | None = None, swmr: bool = False) -> Path:
    """Record a run and write its file as a session does; return the name its file will have."""
    documents = list(documents)[:until]
    journal, nexus = (
        JournalWriter(directory / "journal"),
        NeXusWriter(directory / "nexus", swmr=swmr),
    )
    for name, doc in documents:
        journal(name, doc)
        nexus(name, doc)
    nexus.close()
    journal.close()
    return directory / "nexus" / file_name(documents[0][1])


def expected(folder: Path, documents, until: int) -> Path:
    """What a file should be: documents up to the cut, and the stop document that is made up."""
    folder.mkdir()
    writer = NeXusWriter(folder)
    replay(completed(list(documents)[:until]), [writer])
    return writer.files[0]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "frames" / "run.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = np.arange(6 * 8 * 12, dtype=np.uint16).reshape(6, 8, 12)
    return path


@pytest.mark.parametrize(
    ("kind", "cut"),
    [("line", 1), ("line", 2), ("mesh", 2), ("mesh", 9), ("xafs", 5), ("stills", 3), ("stills", 9)],
)
def test_a_run_that_was_cut_off_is_completed_once(tmp_path: Path, frames: Path, kind, cut):
    make = {"line": line_run, "mesh": mesh_run, "xafs": xafs_run}
    documents = list(stills_run(frames) if kind == "stills" else make[kind]())
    data = tmp_path / "data"
    path = record(data, documents, until=cut)
    part = path.with_name(path.name + ".part")
    assert part.exists()
    (outcome,) = recover(data)
    assert outcome.problem is None
    assert outcome.journal
    assert outcome.files == [path]
    assert not part.exists()
    assert compare_files(path, expected(data / "again", documents, cut)) == []
    summary = Journal(data / "journal").find(-1)
    assert (summary.exit_status, summary.reason) == ("fail", CUT_OFF)
    with h5py.File(path) as file:
        assert file["entry/exit_status"][()] == b"fail"
        assert file["entry/reason"][()].decode() == CUT_OFF
    before = path.read_bytes(), summary.path.read_bytes()
    assert recover(data) == []
    assert before == (path.read_bytes(), summary.path.read_bytes())
    names = sorted(p.name for p in data.iterdir())
    assert names == ["again", "frames", "journal", "nexus", "recover.lock"]


def test_rows_of_a_swmr_file_are_compared(tmp_path: Path):
    documents = list(line_run())
    path = record(tmp_path, documents, until=12, swmr=True)
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    with h5py.File(path) as file:
        assert len(file["entry/data/i0"]) == 10


def test_what_only_the_unfinished_file_has_is_kept(tmp_path: Path):
    documents = list(line_run())
    path = record(tmp_path, documents, until=12)
    journal = Journal(tmp_path / "journal").find(-1).path
    with JournalReader(journal) as reader:
        ends = [reader.end for _ in reader]
    journal.write_bytes(journal.read_bytes()[: ends[6] + 5])
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    assert "5 rows, the file that was cut off has 10" in " ".join(outcome.notes)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with h5py.File(path) as file:
        assert len(file["entry/data/i0"]) == 10
        assert file["entry/exit_status"][()] == b"fail"
    assert Journal(tmp_path / "journal").find(-1).complete
    assert recover(tmp_path) == []


def test_a_recovery_that_was_cut_off_is_done_again(tmp_path: Path):
    documents = list(line_run())
    path = record(tmp_path, documents, until=12)
    part = path.with_name(path.name + ".part")
    part.rename(part.with_name(part.name + ".before"))
    part.write_bytes(b"half")
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    with h5py.File(path) as file:
        assert len(file["entry/data/i0"]) == 10


def test_a_leftover_beside_its_finished_file_goes(tmp_path: Path):
    path = record(tmp_path, line_run())
    part = path.with_name(path.name + ".part")
    part.write_bytes(path.read_bytes())
    content = path.read_bytes()
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    assert not part.exists()
    assert path.read_bytes() == content


def test_missing_files_are_made_on_request(tmp_path: Path):
    path = record(tmp_path, line_run())
    kept = path.rename(tmp_path / "kept.nxs")
    assert recover(tmp_path) == []
    (outcome,) = recover(tmp_path, missing=True)
    assert outcome.files == [path]
    assert not outcome.journal
    assert compare_files(path, kept) == []
    path.unlink()
    assert recover(tmp_path, [7])[0].files == [path]


def test_a_run_that_is_being_recorded_is_left_alone(tmp_path: Path):
    documents = list(line_run())
    journal = JournalWriter(tmp_path / "journal")
    for name, doc in documents[:5]:
        journal(name, doc)
    assert recover(tmp_path) == []
    with pytest.raises(JournalError, match="still being recorded"):
        complete_journal(Journal(tmp_path / "journal").find(-1).path)
    journal.close()
    assert recover(tmp_path)[0].problem is None


def test_one_bad_run_does_not_keep_others_from_being_recovered(tmp_path: Path):
    documents = list(line_run())
    good = record(tmp_path, documents, until=8)
    bad = list(line_run(scan_id=8))
    bad_path = record(tmp_path, bad, until=8)
    bad_path.mkdir()
    outcomes = recover(tmp_path)
    assert [outcome.problem is None for outcome in outcomes] == [
        outcome.run.scan_id == 7 for outcome in outcomes
    ]
    assert good.exists()
    done = beamline("recover", tmp_path)
    assert done.returncode == 1
    assert "not recovered" in done.stdout


def test_an_unfinished_file_of_an_unknown_run_is_named(tmp_path: Path):
    path = record(tmp_path, line_run(), until=8)
    Journal(tmp_path / "journal").find(-1).path.unlink()
    assert recover(tmp_path) == []
    assert unknown_leftovers(tmp_path) == [path.with_name(path.name + ".part")]


def test_the_same_point_twice_is_no_loss(tmp_path: Path):
    run = Run(plan_name="scan", motors=["sample_x"], detectors=["counters"], num_points=5)
    documents = [run.begin()]
    keys = {"counters": counter_keys(), "sample_x": motor_keys("sample_x", "um")}
    documents.append(run.describe("primary", keys))
    for x in (1.0, 2.0, 3.0):
        values = {name: x for described in keys.values() for name in described}
        documents.append(run.event("primary", values))
    again = {**documents[-1][1], "uid": "again", "data": {**values, "i0": 77.0}}
    path = record(tmp_path, documents)
    with JournalWriter(tmp_path / "two") as journal:
        for item in [*documents, ("event", again)]:
            journal(*item)
    Journal(tmp_path / "two").find(-1).path.replace(Journal(tmp_path / "journal").find(-1).path)
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    with h5py.File(path) as file:
        assert list(file["entry/data/i0"]) == [1.0, 2.0, 77.0]


def test_frames_of_a_run_that_was_cut_off_are_in_cxi_files(tmp_path: Path):
    frames = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, 8)])
    documents = stills(frames, 7)
    other = stills(frames, 2, scan_id=8)
    feed(CXIWriter(tmp_path / "cxi"), other)  # of the same second: it has the first name
    journal, cxi = JournalWriter(tmp_path / "journal"), CXIWriter(tmp_path / "cxi")
    for name, doc in documents[:-5]:
        journal(name, doc)
        cxi(name, doc)
    cxi.close()
    journal.close()
    taken = (tmp_path / "cxi" / "beamline_20250101_120000_chunk0001.cxi").read_bytes()
    (growing,) = (tmp_path / "cxi").glob("*.inprogress")
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    made = growing.with_name(growing.name.removesuffix(".inprogress"))
    assert made in outcome.files
    assert check_cxi(made) == []
    with h5py.File(made) as file:
        assert list(file["entry_1/event_id"]) == [1, 2, 3, 4, 5]
        assert file["entry_1/reason"][()].decode() == CUT_OFF
    assert taken == (tmp_path / "cxi" / "beamline_20250101_120000_chunk0001.cxi").read_bytes()
    names = sorted(path.name for path in (tmp_path / "cxi").iterdir())
    assert not [name for name in names if "inprogress" in name or name.startswith(".")]
    assert made.with_suffix(".lst").read_text() == f"{made}\n"
    assert recover(tmp_path) == []


def test_a_cxi_file_whose_frames_are_gone_is_kept(tmp_path: Path):
    frames = frame_file(tmp_path / "frames.h5", [frame(n) for n in range(1, 8)])
    journal, cxi = JournalWriter(tmp_path / "journal"), CXIWriter(tmp_path / "cxi")
    for name, doc in stills(frames, 7)[:-1]:
        journal(name, doc)
        cxi(name, doc)
    cxi.close()
    journal.close()
    frames.unlink()
    (growing,) = (tmp_path / "cxi").glob("*.inprogress")
    (outcome,) = recover(tmp_path)
    assert outcome.problem is None
    assert any("cannot be made again" in note for note in outcome.notes)
    made = growing.with_name(growing.name.removesuffix(".inprogress"))
    assert check_cxi(made) == []
    with h5py.File(made) as file:
        assert list(file["entry_1/event_id"]) == [1, 2, 3, 4, 5, 6, 7]
    assert recover(tmp_path) == []


# --- the journal ----------------------------------------------------------------------------------


def test_every_truncation_can_be_completed(tmp_path: Path):
    documents = list(line_run(points=2))
    record(tmp_path, documents)
    whole = Journal(tmp_path / "journal").find(-1).path.read_bytes()
    path = tmp_path / "cut.journal"
    path.write_bytes(whole)
    with JournalReader(path) as reader:
        begins = [reader.begin for _ in reader]
    sizes = {begin + more for begin in [*begins[1:], len(whole)] for more in (-9, -1, 0, 1, 14)}
    for size in sorted(size for size in sizes if begins[1] <= size < len(whole)):
        path.write_bytes(whole[:size])
        kept = list(read_journal(path))
        added = complete_journal(path)
        got = list(read_journal(path))
        assert got[: len(kept)] == kept
        assert (added is None) == (len(kept) == len(documents))
        assert [name for name, _ in got].count("stop") == 1
        with JournalReader(path) as reader:
            assert reader.stop() == got[-1][1]
        assert complete_journal(path) is None
        tail = path.with_name(path.name + CUT_TAIL)
        if tail.exists():
            tail.unlink()


def test_damaged_bytes_at_the_end_are_kept_beside(tmp_path: Path):
    record(tmp_path, line_run())
    path = Journal(tmp_path / "journal").find(-1).path
    whole = bytearray(path.read_bytes())
    with JournalReader(path) as reader:
        begins = [reader.begin for _ in reader]
    whole = whole[: begins[6] - 1]
    whole[begins[5] + 40] ^= 1
    path.write_bytes(whole)
    assert complete_journal(path)["reason"] == CUT_OFF
    assert path.with_name(path.name + CUT_TAIL).read_bytes() == whole[begins[5] :]
    assert len(list(read_journal(path))) == 6


def spoil(path: Path, *records: int) -> None:
    """Overwrite the inside of records of a journal."""
    with JournalReader(path) as reader:
        begins = [reader.begin for _ in reader]
    with path.open("r+b") as stream:
        for number in records:
            stream.seek(begins[number] + 30)
            stream.write(b"spoilt")


@pytest.mark.parametrize("until", [None, 20])
def test_a_journal_damaged_in_its_middle_is_mended_and_what_is_lost_is_said(tmp_path: Path, until):
    documents = list(line_run())[:until]
    file = record(tmp_path, documents, until=until)
    whole = file.read_bytes() if until is None else b""
    path = Journal(tmp_path / "journal").find(-1).path
    spoil(path, 5, 6, 11)
    damaged = path.read_bytes()
    done = beamline("validate", path)
    assert done.returncode == 1
    assert "2 records are lost" in done.stdout
    done = beamline("recover", tmp_path)
    assert done.returncode == 1
    assert "2 records are lost" in done.stderr
    assert "1 record is lost" in done.stderr
    last = 21 if until is None else 18
    assert f"3 of {last} events are not in the journal (4, 5, 10)" in done.stderr
    assert path.with_name(path.name + DAMAGED).read_bytes() == damaged
    with JournalReader(path) as reader:
        got = list(reader)
        assert reader.damages == []
        assert reader.stop() == got[-1][1]
    kept = [doc for number, doc in enumerate(documents) if number not in (5, 6, 11)]
    assert got[: len(kept)] == kept
    if until is None:
        assert file.read_bytes() == whole
    with h5py.File(file) as made:
        # The file that was cut off has the rows that the journal has lost.
        assert len(made["entry/data/i0"]) == last
    done = beamline("recover", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "events 4 to 5 are missing in stream" in beamline("validate", path).stdout


def test_a_run_is_made_of_what_a_damaged_journal_has(tmp_path: Path):
    documents = list(line_run())
    file = record(tmp_path, documents)
    path = Journal(tmp_path / "journal").find(-1).path
    file.unlink()
    spoil(path, 4)
    done = beamline("replay", path, "--to", "nexus", tmp_path / "again")
    assert done.returncode == 1
    assert "1 record is lost" in done.stderr
    (outcome,) = recover(tmp_path, missing=True)
    assert outcome.files == [file]
    assert "1 record is lost" in outcome.lost[0]
    for made in (file, tmp_path / "again" / file.name):
        with h5py.File(made) as opened:
            assert len(opened["entry/data/i0"]) == 20
            assert opened["entry/exit_status"][()] == b"success"


def test_a_lost_descriptor_is_told_in_a_few_sentences(tmp_path: Path):
    file = record(tmp_path, line_run())
    file.unlink()
    path = Journal(tmp_path / "journal").find(-1).path
    spoil(path, 1)
    (outcome,) = recover(tmp_path, missing=True)
    assert "1 record is lost" in outcome.lost[0]
    said = " ".join(outcome.notes)
    assert "was never received" in said
    assert "21 events belong to a descriptor that is lost" in said
    assert "16 more documents were refused" in said


def test_a_journal_without_its_beginning_is_named(tmp_path: Path):
    record(tmp_path, line_run())
    path = Journal(tmp_path / "journal").find(-1).path
    record(tmp_path, line_run(scan_id=8), until=6)
    spoil(path, 0)
    before = path.read_bytes()
    done = beamline("recover", tmp_path)
    assert done.returncode == 1
    assert f"{path} holds no start document" in done.stderr
    assert "stop added" in done.stdout
    assert path.read_bytes() == before


# --- the commands ---------------------------------------------------------------------------------


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def beamline(*arguments, cwd="."):
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
    return Done(code, out.getvalue(), err.getvalue())


def test_recover_prints_what_it_did(tmp_path: Path):
    path = record(tmp_path, line_run(), until=8)
    done = beamline("recover", tmp_path)
    assert done.returncode == 0, done.stderr
    assert path.name in done.stdout
    assert "stop added" in done.stdout
    done = beamline("recover", tmp_path)
    assert done.returncode == 0
    assert "Nothing was to be recovered" in done.stdout


def test_recover_says_where_it_has_looked_in_vain(tmp_path: Path):
    done = beamline("recover", "typo", cwd=tmp_path)
    assert done.returncode == 1
    assert "typo is no directory, and the data directory beamline-data does not" in done.stderr
    (tmp_path / "nexus").mkdir()
    done = beamline("recover", "nexus", cwd=tmp_path)
    assert done.returncode == 1
    assert "nexus holds no journal" in done.stderr


def test_show(tmp_path: Path):
    record(tmp_path, xafs_run())
    done = beamline("show", "-1", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("xafs_scan", "success", "primary: 60 rows", "baseline: 2 rows", "eV", "Cu foil",
                  "gate_offset = 0.5 s", ".nxs"):  # fmt: skip
        assert words in done.stdout, words
    done = beamline("show", "7", "--json", "--data-dir", tmp_path)
    shown = json.loads(done.stdout)
    assert shown["streams"]["primary"]["rows"] == 60
    assert shown["streams"]["primary"]["data_keys"]["mono_energy"]["units"] == "eV"
    gate = shown["streams"]["primary"]["configuration"]["counters"]["gate_offset"]
    assert gate == {"value": 0.5, "units": "s"}
    assert shown["stop"]["exit_status"] == "success"
    assert shown["documents"]["event"] == 62


def test_replay_of_a_journal_file_a_range_and_to_any_writer(tmp_path: Path):
    one = record(tmp_path, line_run())
    two = record(tmp_path, mesh_run(scan_id=8))
    journal = Journal(tmp_path / "journal").find(7).path
    done = beamline("replay", journal, "--to", "nexus", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert compare_files(one, tmp_path / "a" / one.name) == []
    since = ("--since", "2025-11-20", "--until", "2025-11-21", "--data-dir", tmp_path)
    done = beamline("replay", *since, "--to", "nexus", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    for path in (one, two):
        assert compare_files(path, tmp_path / "b" / path.name) == []
    done = beamline("replay", *since, "--to", "nxsas", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "c").glob("*.h5"))) == 2
    (tmp_path / "mine.py").write_text(
        "class Count:\n"
        "    def __init__(self, directory):\n"
        "        self.path, self.n, self.files = directory / 'count', 0, []\n"
        "    def __call__(self, name, doc):\n"
        "        self.n += 1\n"
        "        if name == 'stop':\n"
        "            self.path.write_text(str(self.n)); self.files.append(self.path)\n"
    )
    done = beamline("replay", 7, "--to", "mine:Count", "d", "--data-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "count").read_text() == "24"
    done = beamline("replay", 7, "--to", "zlib:crc32", "e", "--data-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "zlib:crc32 made no consumer for e: TypeError" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1", "--to", "hdf", "out"), "is no writer"),
        (("1", "--to", "nowhere:X", "out"), "cannot be imported"),
        (("1", "--to", "os:sep", "out"), "'os:sep' is a str, no function"),
        (("--to", "nexus", "out"), "name a RUN and a DIRECTORY"),
        (("--since", "tuesday", "--to", "nexus", "out"), "is no time"),
    ],
)
def test_unusable_arguments_of_replay(tmp_path: Path, arguments, words):
    done = beamline("replay", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr


def test_refused_documents_are_named_and_the_rest_is_written(tmp_path: Path):
    documents = list(line_run())
    del documents[5][1]["data"]["i0"]
    with JournalWriter(tmp_path / "journal") as journal:
        for item in documents:
            journal(*item)
    done = beamline("replay", "-1", "--to", "nexus", tmp_path / "out", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert f"run {documents[0][1]['uid'][:8]}: event 4 of stream 'primary'" in done.stderr
    assert "'i0'" in done.stderr
    (path,) = (tmp_path / "out").iterdir()
    with h5py.File(path) as file:
        assert len(file["entry/data/i0"]) == 20
