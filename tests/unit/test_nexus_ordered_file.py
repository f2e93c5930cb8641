"""The file under HDF5: what is on disk changes as a whole, and only when there is space."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks._ordered_file import OrderedFile

PAGE = 4096


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5 * PAGE), st.binary(max_size=2 * PAGE), st.booleans()),
        max_size=12,
    )
)
def test_it_reads_and_stores_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes, bool]]
):
    path = tmp_path_factory.mktemp("ordered") / "x"
    ordered = OrderedFile(path)
    expected = bytearray()
    for offset, data, commit in writes:
        if data:
            expected.extend(bytes(max(0, offset + len(data) - len(expected))))
            expected[offset : offset + len(data)] = data
        ordered.seek(offset)
        assert ordered.write(data) == len(data)
        if commit:
            ordered.commit()
        ordered.seek(0)
        assert ordered.read(len(expected)) == expected
    ordered.close()
    assert path.read_bytes() == expected


def test_nothing_is_on_disk_before_a_commit(tmp_path: Path):
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(b"abc")
    assert (tmp_path / "x").read_bytes() == b""
    ordered.commit()
    assert (tmp_path / "x").read_bytes()[:3] == b"abc"
    ordered.seek(0)
    ordered.write(b"xyz")
    ordered.abandon()
    assert (tmp_path / "x").read_bytes()[:3] == b"abc"


def test_what_is_new_comes_before_what_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(bytes(4 * PAGE))
    ordered.commit()
    for page in (3, 0, 7, 1, 5):
        ordered.seek(page * PAGE)
        ordered.write(b"x")
    order = []
    pwrite = os.pwrite

    def note(descriptor: int, data: bytes, offset: int) -> int:
        order.append(offset // PAGE)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    ordered.commit()
    assert order == [5, 7, 0, 1, 3]
    ordered.close()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(b"a" * PAGE)
    ordered.commit()
    before = (tmp_path / "x").read_bytes()
    ordered.seek(0)
    ordered.write(b"b" * 2**20)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            ordered.commit()
    assert (tmp_path / "x").read_bytes() == before
    ordered.close()
    assert (tmp_path / "x").read_bytes() == b"b" * 2**20


def test_a_file_system_that_cannot_reserve_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(b"abc")
    ordered.close()
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_two_writers_of_one_file_are_refused(tmp_path: Path):
    first = OrderedFile(tmp_path / "x")
    first.write(b"abc")
    first.commit()
    with pytest.raises(BlockingIOError):
        OrderedFile(tmp_path / "x")
    assert (tmp_path / "x").read_bytes()[:3] == b"abc"
    first.close()
    OrderedFile(tmp_path / "x").close()


def test_hdf5_readers_respect_the_lock(tmp_path: Path):
    ordered = OrderedFile(tmp_path / "x.h5")
    file = h5py.File(ordered, "w")
    file["a"] = np.arange(5)
    file.flush()
    ordered.commit()
    with pytest.raises(BlockingIOError):
        h5py.File(tmp_path / "x.h5", "r")
    with h5py.File(tmp_path / "x.h5", "r", locking=False) as reader:
        assert reader["a"][()].tolist() == [0, 1, 2, 3, 4]
    file.close()
    ordered.close()
    with h5py.File(tmp_path / "x.h5", "r") as reader:
        assert reader["a"][()].tolist() == [0, 1, 2, 3, 4]
