"""The file under HDF5: what is on disk changes as a whole, and only when there is space."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks._ordered_file import OrderedFile

PAGE = 4096


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
    assert list(tmp_path.iterdir()) == []
    ordered.commit()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert (tmp_path / "x").read_bytes()[:3] == b"abc"
    ordered.seek(0)
    ordered.write(b"xyz")
    ordered.abandon()
    assert (tmp_path / "x").read_bytes()[:3] == b"abc"


def test_an_abandoned_beginning_leaves_nothing(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"old")
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(b"abc")
    ordered.abandon()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.fixture(params=["without a name", "hidden"])
def beginning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files without a name, and as they are where the file system has none."""
    if request.param == "hidden":
        monkeypatch.delattr(os, "O_TMPFILE")
    return str(request.param)


def test_a_file_appears_with_its_first_commit(tmp_path: Path, beginning: str):
    (tmp_path / "x").write_bytes(b"old, longer")
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(b"abc")
    assert (tmp_path / "x").read_bytes() == b"old, longer"
    assert len(list(tmp_path.iterdir())) == (1 if beginning == "without a name" else 2)
    ordered.commit()
    assert (tmp_path / "x").read_bytes()[:4] == b"abc\0"
    ordered.close()
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert (tmp_path / "x").stat().st_mode & 0o600 == 0o600


def test_of_two_beginnings_the_second_to_be_named_is_refused(tmp_path: Path, beginning: str):
    first, second = OrderedFile(tmp_path / "x"), OrderedFile(tmp_path / "x")
    first.write(b"abc")
    first.commit()
    second.write(b"xyz")
    with pytest.raises(BlockingIOError):
        second.commit()
    second.abandon()
    first.close()
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_what_is_new_comes_before_what_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ordered = OrderedFile(tmp_path / "x")
    ordered.write(bytes(4 * PAGE - 10))  # the old end is within a page
    ordered.commit()
    for page in (3, 0, 7, 1, 5):
        ordered.seek(page * PAGE)
        ordered.write(b"x")
    order = []
    pwrite = os.pwrite

    def note(descriptor: int, data: bytes, offset: int) -> int:
        order.append(offset)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    ordered.commit()
    assert order == [4 * PAGE - 10, 0, PAGE, 3 * PAGE]
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
