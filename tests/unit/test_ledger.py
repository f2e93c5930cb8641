"""The ledger of written events: what it says after any crash."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamline.core.errors import StorageError
from beamline.streaming import ledger as module
from beamline.streaming.ledger import EventKey, Ledger


def events(batch, *indices, run="run"):
    return [EventKey(run, batch, index) for index in indices]


def write(ledger, folder, name, keys):
    ledger.prepare(folder / name, keys)
    (folder / name).write_text("")
    ledger.confirm(folder / name)


def test_confirmed_events_are_known_also_when_the_file_moved_away(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, tmp_path, "a.cxi", events("b1", 0, 1, 2) + events("b2", 5))
        assert ("run", "b1", 1) in ledger
        assert ("run", "b1", 3) not in ledger
        assert ("other", "b1", 1) not in ledger
    (tmp_path / "a.cxi").unlink()
    with Ledger(tmp_path / "ledger") as ledger:
        assert len(ledger) == 4
        assert EventKey("run", "b2", 5) in ledger


@pytest.mark.parametrize("renamed", [True, False])
def test_a_kill_between_note_and_name_is_decided_by_the_file(tmp_path, renamed):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.prepare(tmp_path / "a.cxi", events("b", 0, 1))
        assert ("run", "b", 0) not in ledger
    if renamed:
        (tmp_path / "a.cxi").write_text("")
    with Ledger(tmp_path / "ledger") as ledger:
        assert (("run", "b", 0) in ledger) == renamed
    # What was decided stays decided, whatever happens to the name.
    if renamed:
        (tmp_path / "a.cxi").unlink()
    else:
        (tmp_path / "a.cxi").write_text("")
    with Ledger(tmp_path / "ledger") as ledger:
        assert (("run", "b", 0) in ledger) == renamed


def test_a_note_that_was_cut_off_does_not_hold_and_the_next_does(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, tmp_path, "a.cxi", events("b", 0))
        ledger.prepare(tmp_path / "b.cxi", events("b", 1))
    (tmp_path / "b.cxi").write_text("")
    data = (tmp_path / "ledger").read_bytes()
    (tmp_path / "ledger").write_bytes(data[:-5])
    with Ledger(tmp_path / "ledger") as ledger:
        assert ("run", "b", 1) not in ledger
        write(ledger, tmp_path, "c.cxi", events("b", 2))
    with Ledger(tmp_path / "ledger") as ledger:
        assert [("run", "b", i) in ledger for i in range(3)] == [True, False, True]


def test_a_withdrawn_file_is_not_written(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.prepare(tmp_path / "a.cxi", events("b", 0))
        ledger.withdraw(tmp_path / "a.cxi")
        write(ledger, tmp_path, "a.cxi", events("b", 1))
    with Ledger(tmp_path / "ledger") as ledger:
        assert [("run", "b", i) in ledger for i in range(2)] == [False, True]


def test_a_full_disk_leaves_the_ledger_whole(tmp_path, monkeypatch):
    with Ledger(tmp_path / "ledger") as ledger:
        write(ledger, tmp_path, "a.cxi", events("b", 0))

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(module.os, "fdatasync", full)
        with pytest.raises(StorageError, match="No space left"):
            ledger.prepare(tmp_path / "b.cxi", events("b", 1))
        monkeypatch.undo()
        write(ledger, tmp_path, "b.cxi", events("b", 2))
    with Ledger(tmp_path / "ledger") as ledger:
        assert [("run", "b", i) in ledger for i in range(3)] == [True, False, True]


def test_two_writers_do_not_share_a_ledger(tmp_path):
    with Ledger(tmp_path / "ledger"), pytest.raises(StorageError, match="another writer"):
        Ledger(tmp_path / "ledger")
    Ledger(tmp_path / "ledger").close()


def test_a_foreign_file_is_refused_by_line(tmp_path):
    (tmp_path / "ledger").write_text('{"file":"a","batches":[]}\nnonsense\n')
    with pytest.raises(StorageError, match=r"line 2 of .*ledger is no note"):
        Ledger(tmp_path / "ledger")


keys = st.builds(
    EventKey, st.sampled_from(["r1", "r2"]), st.sampled_from(["b", "ü\n"]), st.integers(-3, 12)
)


@settings(max_examples=20)
@given(st.lists(st.lists(keys, max_size=8), max_size=6))
def test_it_says_what_a_set_would_say(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("ledger")
    seen = set()
    with Ledger(folder / "ledger") as ledger:
        for number, batch in enumerate(files):
            write(ledger, folder, f"{number}.cxi", batch)
            seen |= set(batch)
            assert len(ledger) == len(seen)
    with Ledger(folder / "ledger") as ledger:
        assert len(ledger) == len(seen)
        for run in ("r1", "r2"):
            for batch in ("b", "ü\n"):
                for index in range(-3, 13):
                    assert ((run, batch, index) in ledger) == ((run, batch, index) in seen)
