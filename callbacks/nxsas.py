"""Files of one run each with the interface of suitcase-nxsas, which no longer can be imported.

`export` writes a generator of documents; `Serializer` takes them one by one. The file has the
documents below ``/bluesky``, and what ``techniques`` in the start document describe; without them
the ``/entry`` of `callbacks.nexus`, which for a small-angle run is a valid NXsas.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from event_model import SingleRunDocumentRouter

from beamline.core.closing import Closing
from beamline.core.errors import BeamlineError, ConfigurationError, StorageError
from beamline.nexus.techniques import TechniquesTree
from callbacks._nexus_run import NexusRun

__all__ = ["Manager", "Serializer", "export"]

Document = Mapping[str, Any]
_LABEL = "stream_data"


class Manager(Protocol):
    """What hands out files or buffers: the managers of suitcase-utils do."""

    @property
    def artifacts(self) -> Mapping[str, list[Any]]:
        """Label → names or buffers handed out."""
        ...

    def reserve_name(self, label: str, postfix: str) -> os.PathLike[str] | str:
        """Return the path for a file; one that has buffers only raises."""
        ...

    def open(self, label: str, postfix: str, mode: str) -> Any:
        """Return a stream to write to."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


def export(
    gen: Iterable[tuple[str, Document]],
    directory: str | os.PathLike[str] | Manager,
    file_prefix: str = "{uid}-",
    **kwargs: Any,
) -> dict[str, list[Any]]:
    """Write the documents of one run to a file.

    Parameters
    ----------
    gen
        Pairs (name, document).
    directory
        Where the file goes (made if it is missing; "" is the working directory), or a manager.
    file_prefix
        Name of the file without ".h5", with fields of the start document in braces.
    **kwargs
        As for `Serializer`.

    Returns
    -------
    dict
        ``{"stream_data": [path]}``.

    Raises
    ------
    ConfigurationError, StorageError
        As `Serializer`.

    Examples
    --------
    >>> export(run.documents(), "files", "{plan_name}-{scan_id}-")
    """
    with Serializer(directory, file_prefix, **kwargs) as serializer:
        for name, doc in gen:
            serializer(name, doc)
    return serializer.artifacts


class Serializer(SingleRunDocumentRouter, Closing):
    """Document consumer that writes one run, while it goes on, to one file.

    Parameters
    ----------
    directory, file_prefix
        As for `export`. A manager without file names (`suitcase.utils.MemoryBuffersManager`) gets
        the whole file in a buffer when the run has ended; links to frames in other files are
        those of a file in the folder for temporary files.
    compression
        gzip level (0 to 9) of numeric columns, or None.
    flush_interval
        Rows are on disk after so many seconds at most, as long as documents arrive.

    Raises
    ------
    StorageError
        When the run starts: if the file can't be made, or is there already.
    ConfigurationError
        When the run starts: if the prefix has a field that the start document lacks.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | Manager,
        file_prefix: str = "{uid}-",
        *,
        compression: int | None = None,
        flush_interval: float = 0.5,
    ) -> None:
        super().__init__()
        self._manager: Manager = (
            _Files(Path(directory)) if isinstance(directory, str | os.PathLike) else directory
        )
        self._buffer: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._prefix = file_prefix
        self._compression = compression
        self._interval = flush_interval
        self._run: NexusRun | None = None

    @property
    def artifacts(self) -> dict[str, list[Any]]:
        """Label → files."""
        return dict(self._manager.artifacts)

    def start(self, doc: Document) -> None:
        """Make the file."""
        super().start(doc)
        try:
            name = f"{self._prefix.format(**doc)}.h5"
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                f"file_prefix {self._prefix!r} cannot be filled in from the start document: "
                f"{type(error).__name__} {error}."
            ) from None
        path = self._place(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path.parent}: {error.strerror}.") from None
        self._run = NexusRun(
            doc,
            path.parent,
            compression=self._compression,
            flush_interval=self._interval,
            name=path.name,
            make_tree=TechniquesTree,
        )
        self._run("start", doc)

    def _place(self, name: str) -> Path:
        try:
            return Path(self._manager.reserve_name(_LABEL, name)).absolute()
        except BeamlineError:
            raise
        except Exception:  # noqa: BLE001  (theirs can't be named here; if it is serious, open raises too)
            self._buffer = self._manager.open(_LABEL, name, "xb")
        self._folder = tempfile.TemporaryDirectory(prefix="nxsas-")
        return Path(self._folder.name) / Path(name).name

    def _fill_buffer(self) -> None:
        """Move what was written into the manager's buffer."""
        if self._folder is None:
            return
        try:
            for path in Path(self._folder.name).iterdir():
                with path.open("rb") as stream:
                    shutil.copyfileobj(stream, self._buffer)
        finally:
            self._folder.cleanup()
            self._folder = None

    def descriptor(self, doc: Document) -> None:
        """Lay out a stream."""
        super().descriptor(doc)
        self._pass("descriptor", doc)

    def event(self, doc: Document) -> Document:
        """Add a row."""
        self._pass("event", doc)
        return doc

    def event_page(self, doc: Document) -> Document:
        """Add rows."""
        self._pass("event_page", doc)
        return doc

    def resource(self, doc: Document) -> None:
        """Note a file of frames."""
        self._pass("resource", doc)

    def stream_resource(self, doc: Document) -> None:
        """Link a file of frames."""
        self._pass("stream_resource", doc)

    def stream_datum(self, doc: Document) -> None:
        """Count frames."""
        self._pass("stream_datum", doc)

    def stop(self, doc: Document) -> None:
        """Complete the file and give it its name."""
        super().stop(doc)
        self._pass("stop", doc)
        self._fill_buffer()

    def _pass(self, name: str, doc: Document) -> None:
        if self._run is not None:
            self._run(name, doc)

    def close(self) -> None:
        """Bring everything to disk, and close the manager.

        Without a stop document the file stays ``.part``; a buffer gets it as it is.
        """
        if self._run is not None:
            self._run.close()
        self._fill_buffer()
        self._manager.close()


class _Files:
    """Names in a directory, each once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.artifacts: dict[str, list[Any]] = {}

    def reserve_name(self, label: str, postfix: str) -> Path:
        path = (self._directory / postfix).expanduser().absolute()
        if Path(postfix).is_absolute():
            raise ConfigurationError(
                f"file_prefix must not be an absolute path, found {postfix!r}: give the folder as "
                "directory."
            )
        self.artifacts.setdefault(label, []).append(path)
        return path

    def open(self, label: str, postfix: str, mode: str) -> Any:
        return self.reserve_name(label, postfix).open(mode)

    def close(self) -> None:
        """Nothing is open here."""
