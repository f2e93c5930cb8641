"""Locks of files that others only look at."""

import fcntl
import threading

import pytest

from beamline.core import disk


def test_who_only_looks_keeps_nobody_from_writing(tmp_path):
    path = tmp_path / "session.lock"
    with path.open("a") as writer, path.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        disk.lock(writer, patience=60.0)
        assert disk.written_now(path)


def test_a_lock_that_is_kept_is_refused(tmp_path):
    path = tmp_path / "session.lock"
    with path.open("a") as one, path.open("a") as other:
        disk.lock(one)
        with pytest.raises(BlockingIOError):
            disk.lock(other, patience=0.0)
    assert not disk.written_now(path)
