"""A NeXus file that is written by hand: whole scans, each an entry."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from beamline.core.errors import ConfigurationError, FileFormatError, StorageError
from beamline.nexus.metadata import ENTRY, add_mapping, constant
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.scan import ScanArrays, ScanType, scan_documents
from beamline.nexus.tree import Field, Group, Node, Tree
from callbacks._hdf5 import set_attributes, write_field
from callbacks._nexus_run import NexusRun

__all__ = ["Mode", "ScanFile"]

Mode = Literal["w", "w-", "a"]
_MODES = ("w", "w-", "a")


class ScanFile:
    """A file of scans, ``NAME.part`` until it is closed.

    Every scan goes through the same code as a run that is recorded while it goes on, into a file of
    its own; its entry is then copied to this one.

    Parameters
    ----------
    path
        Its final path; the folder is made if it is missing.
    mode
        "w": replace what is there when this file is closed; "w-": refuse to; "a": add entries to
        what is there.
    compression
        gzip level (0 to 9).

    Raises
    ------
    StorageError
        If the file can't be made, or is there and `mode` is "w-".
    FileFormatError
        If `mode` is "a" and what is there is no HDF5 file.
    """

    def __init__(self, path: Path, mode: str, compression: int) -> None:
        if mode not in _MODES:
            raise ConfigurationError(
                f"mode must be one of {', '.join(map(repr, _MODES))}, found {mode!r}."
            )
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._compression = compression
        self._entry: str | None = None
        self._added: dict[str, set[str]] = {}
        self._waiting: dict[str, Any] = {}
        if mode == "w-" and path.exists():
            raise StorageError(f'{path} exists already: choose another name, or mode "w" or "a".')
        self._file = self._open(mode)

    def _open(self, mode: str) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            keep = mode == "a" and self.path.exists()
            if keep:
                shutil.copyfile(self.path, self._part)
            file = h5py.File(self._part, "r+" if keep else "w", libver=("earliest", "v110"))
        except OSError as error:
            if mode == "a" and self.path.is_file() and not h5py.is_hdf5(self.path):
                self._part.unlink(missing_ok=True)
                raise FileFormatError(f"{self.path} is no HDF5 file: nothing was added.") from None
            raise StorageError(
                f"cannot write {self._part}: {error.strerror or error}; choose another place."
            ) from error
        entries = [name for name in file if name.startswith("entry")]
        # The alphabet has entry_10 before entry_9.
        latest = max(entries, key=lambda name: (len(name), name), default=None)
        self._entry = f"/{latest}" if latest else None
        return file

    def write_scan(self, scan: ScanArrays, title: str | None, scan_type: ScanType) -> None:
        """Add a scan as an entry."""
        file = self._checked()
        with tempfile.TemporaryDirectory(
            dir=self.path.parent, prefix=f".{self.path.name}."
        ) as folder:
            done: list[Path] = []
            run: NexusRun | None = None
            for name, doc in scan_documents(scan, title=title, scan_type=scan_type):
                if run is None:
                    run = NexusRun(
                        doc,
                        Path(folder),
                        compression=self._compression,
                        flush_interval=60.0,
                        on_finished=done.append,
                    )
                run(name, doc)
            with h5py.File(done[0], "r") as source:
                self._copy(source, file)
        self._write_waiting(file)
        file.flush()

    def _copy(self, source: Any, file: Any) -> None:
        entry = f"/{unused_name(ENTRY.lstrip('/'), file)}"
        source.copy(ENTRY, file, name=entry)
        if entry != ENTRY:
            _move_references(file[entry], entry)
        if "default" not in file.attrs:
            for name, value in source.attrs.items():
                file.attrs[name] = value
            file.attrs["file_name"] = self.path.name
        self._entry = entry
        self._added[entry] = set()

    def add_metadata(self, key: str, value: Any) -> None:
        """Add a value to the latest scan; before the first one, to that."""
        file = self._checked()
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError(f"the name of a metadata value must be text, found {key!r}.")
        if value is None:
            raise ConfigurationError(f"the metadata value {key!r} is None, which no file can hold.")
        if self._entry is None:
            self._waiting[key] = value
            return
        self._write_metadata(file, key, value)
        file.flush()

    def _write_waiting(self, file: Any) -> None:
        for key, value in self._waiting.items():
            self._write_metadata(file, key, value)
        self._waiting.clear()

    def _write_metadata(self, file: Any, key: str, value: Any) -> None:
        entry = file[self._entry]
        ours = self._added.setdefault(str(self._entry), set())
        name = nexus_name(key)
        if name in ours:
            del entry[name]
        else:
            # What the scan itself has there stays.
            name = unused_name(name, entry)
            ours.add(name)
        original = {} if name == key else {"original_name": clean_text(key)}
        tree: Tree = {}
        path = f"{self._entry}/{name}"
        if isinstance(value, Mapping):
            add_mapping(tree, path, value, original)
        elif (made := constant(value, original)) is not None:
            tree[path] = made
        for where, node in tree.items():
            _write(file, where, node)

    def _checked(self) -> Any:
        if not self._file:
            raise StorageError(f"{self.path} is closed already: open it again with mode 'a'.")
        return self._file

    def close(self) -> None:
        """Bring everything to disk and give the file its name; again is allowed."""
        if not self._file:
            return
        try:
            if self._waiting:  # no scan came that could have them
                self._entry = ENTRY
                _write(self._file, "/", Group("NXroot", {"default": ENTRY.lstrip("/")}))
                _write(self._file, ENTRY, Group("NXentry"))
                self._write_waiting(self._file)
            self._file.close()
            with self._part.open("rb+") as stream:
                os.fsync(stream.fileno())
            self._part.replace(self.path)
        except OSError as error:
            raise StorageError(
                f"cannot finish {self.path}: {error.strerror or error}; what was written is in "
                f"{self._part}."
            ) from error


def _write(file: Any, path: str, node: Node) -> None:
    if isinstance(node, Group):
        group = file.require_group(path)
        group.attrs["NX_class"] = node.nx_class
        set_attributes(group, node.attributes)
    elif isinstance(node, Field):
        write_field(file, path, node)


def _move_references(entry: Any, new: str) -> None:
    """Let paths in attributes and fields lead into an entry of another name."""

    def moved(text: Any) -> str | None:
        text = text.decode() if isinstance(text, bytes) else text
        if isinstance(text, str) and (text == ENTRY or text.startswith(f"{ENTRY}/")):
            return new + text[len(ENTRY) :]
        return None

    def visit(_: str, node: Any) -> None:
        for name in ("target", "depends_on"):
            if name in node.attrs and (path := moved(node.attrs[name])) is not None:
                node.attrs[name] = path
        if node.name.endswith("/depends_on") and isinstance(node, h5py.Dataset):
            path = moved(np.asarray(node).item())
            if path is not None:
                node[()] = path

    entry.visititems(visit)
    visit("", entry)
