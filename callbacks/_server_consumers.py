"""What a callback server can run, by name, and what it does about remnants of a killed one."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from beamline.core.errors import ConfigurationError
from beamline.documents.consumers import Consumer

__all__ = [
    "BUILT_IN",
    "POLICIES",
    "CXITask",
    "CatalogTask",
    "NeXusTask",
    "Policy",
    "Task",
    "XPCSTask",
    "make_task",
]

Policy = Literal["stop", "pause", "warn"]
POLICIES: tuple[Policy, ...] = ("stop", "pause", "warn")
_ASIDE = ".interrupted"


class Task:
    """One consumer of a callback server: makes what takes the documents of a run.

    Parameters
    ----------
    name
        In messages, metrics and the ledger.
    policy
        What happens to the plan when it raises: it stops, pauses, or goes on with a warning.
    factory
        Called with each start document; returns the consumers of that run (none: not interested).
    """

    #: Whether a run that is open when the server is stopped gets a stop document that says so.
    closes_interrupted = True

    def __init__(
        self,
        name: str,
        policy: Policy,
        factory: Callable[[Mapping[str, Any]], Iterable[Consumer]] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self._factory = factory

    def begin(self, start: Mapping[str, Any]) -> list[Consumer]:
        """Return the consumers of a run."""
        return list(self._factory(start)) if self._factory is not None else []

    def written(self, start: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether the files of a run are there and finished, though no ledger says so."""
        return False

    def clear(self, start: Mapping[str, Any], files: Iterable[Path]) -> list[Path]:  # noqa: ARG002
        """Move away what an interrupted server left of a run that is done again.

        Parameters
        ----------
        start
            The start document.
        files
            What was closed when that server was stopped.

        Returns
        -------
        list[Path]
            Where it is now; to be deleted when the whole run has taken its place.
        """
        return [_put_aside(file) for file in files if file.exists()]

    def files(self) -> list[Path]:
        """Return the files that were finished so far."""
        return []

    def close(self) -> None:
        """Bring everything to disk."""


class NeXusTask(Task):
    """NeXus files in a directory."""

    def __init__(self, policy: Policy, directory: Path) -> None:
        from callbacks.nexus import NeXusWriter, file_name

        super().__init__("nexus", policy)
        self._writer = NeXusWriter(directory)
        self._file_name = file_name

    def begin(self, start: Mapping[str, Any]) -> list[Consumer]:  # noqa: ARG002
        """Return the writer, which keeps runs apart."""
        return [self._writer]

    def written(self, start: Mapping[str, Any]) -> bool:
        """Whether the file has its final name."""
        return (self._writer.directory / self._file_name(start)).exists()

    def files(self) -> list[Path]:
        """Return the files that were finished so far."""
        return self._writer.files

    def close(self) -> None:
        """Close the files of open runs; they stay ``.part``."""
        self._writer.close()


class CXITask(Task):
    """CXI files in a directory."""

    def __init__(self, policy: Policy, directory: Path) -> None:
        from callbacks.cxi import CXIWriter

        super().__init__("cxi", policy)
        self._directory = directory
        self._writer = CXIWriter(directory)

    def begin(self, start: Mapping[str, Any]) -> list[Consumer]:  # noqa: ARG002
        """Return the writer, which keeps runs apart."""
        return [self._writer]

    def written(self, start: Mapping[str, Any]) -> bool:
        """Whether there are files of this run, and none that is still growing."""
        found = self._of_run(start)
        return bool(found) and all(path.suffix == ".cxi" for path in found)

    def clear(self, start: Mapping[str, Any], files: Iterable[Path]) -> list[Path]:
        """Move finished files away; what was growing is made again from the beginning."""
        moved = super().clear(start, files)
        for path in self._of_run(start):
            if path.suffix == ".cxi":
                moved.append(_put_aside(path))
            else:
                path.unlink()
        return moved

    def _of_run(self, start: Mapping[str, Any]) -> list[Path]:
        import h5py

        found = []
        for path in self._directory.glob("*.cxi*"):
            if path.name.endswith(_ASIDE):
                continue
            try:
                with h5py.File(path, "r", locking=False) as file:
                    uid = str(file["/entry_1/experiment_identifier"].asstr()[()])
            except (OSError, KeyError, RuntimeError):
                continue
            if uid == start["uid"]:
                found.append(path)
        return found

    def files(self) -> list[Path]:
        """Return the files that were finished so far."""
        return self._writer.files

    def close(self) -> None:
        """Close the files of open runs."""
        self._writer.close()


class XPCSTask(Task):
    """g2 of XPCS runs: documents, pictures and result files in a directory."""

    def __init__(self, policy: Policy, directory: Path) -> None:
        from callbacks.xpcs import XPCSWriter, file_name

        super().__init__("xpcs", policy)
        self._directory = directory
        self._writer = XPCSWriter(directory)
        self._file_name = file_name

    def begin(self, start: Mapping[str, Any]) -> list[Consumer]:  # noqa: ARG002
        """Return the writer, which keeps runs apart."""
        return [self._writer]

    def written(self, start: Mapping[str, Any]) -> bool:
        """Whether the result file is there."""
        return (self._directory / self._file_name(start)).exists()

    def files(self) -> list[Path]:
        """Return the files that were finished so far."""
        return self._writer.files

    def close(self) -> None:
        """Write what is known of open runs."""
        self._writer.close()


class CatalogTask(Task):
    """A journal of the server's own, and the process that feeds a catalogue from it."""

    # A run that is complete in a catalogue is never looked at again.
    closes_interrupted = False

    def __init__(self, policy: Policy, directory: Path, uri: str | None = None) -> None:
        from beamline.catalog import CatalogFeed
        from beamline.documents.journal import JournalWriter

        super().__init__("catalog", policy)
        self._journal = directory / "journal"
        # Runs that a killed server left open come again from their beginning.
        for path in self._journal.glob("*/*.journal"):
            if not _has_stop(path):
                path.unlink()
        self._writer = JournalWriter(self._journal)
        self._feed = CatalogFeed(directory, uri)
        self._feed.start()

    def begin(self, start: Mapping[str, Any]) -> list[Consumer]:  # noqa: ARG002
        """Return the journal writer, which keeps runs apart."""
        return [self._writer]

    def written(self, start: Mapping[str, Any]) -> bool:
        """Whether the run is in the journal here, with its stop document."""
        return any(_has_stop(path) for path in self._of_run(start))

    def clear(self, start: Mapping[str, Any], files: Iterable[Path]) -> list[Path]:  # noqa: ARG002
        """Delete what was recorded of a run that comes again."""
        for path in self._of_run(start):
            path.unlink()
        return []

    def _of_run(self, start: Mapping[str, Any]) -> list[Path]:
        return list(self._journal.glob(f"*/{quote(str(start['uid']), safe='')}.journal"))

    def close(self) -> None:
        """Close the journal and stop feeding; what is left follows at the next start."""
        self._writer.close()
        self._feed.stop()


def _put_aside(file: Path) -> Path:
    return file.rename(file.with_name(file.name + _ASIDE))


def _has_stop(path: Path) -> bool:
    from beamline.core.errors import FileFormatError
    from beamline.documents._records import JournalReader

    try:
        with JournalReader(path) as reader:
            return reader.stop() is not None
    except FileFormatError:
        return False


BUILT_IN = ("nexus", "cxi", "xpcs", "catalog")


def make_task(text: str, policy: Policy, directory: Path, catalog_uri: str | None = None) -> Task:
    """Make a consumer from what the command line says.

    Parameters
    ----------
    text
        ``nexus``, ``cxi``, ``xpcs``, ``catalog`` or ``module:factory``; ``=stop``, ``=pause``
        or ``=warn`` behind it is its own policy.
    policy
        Where `text` gives none.
    directory
        Files go below it.
    catalog_uri
        Address of a tiled server for ``catalog``; without one its catalogue is below `directory`.

    Raises
    ------
    ConfigurationError
        If there is no such consumer.
    """
    name, _, own = text.partition("=")
    chosen = next((known for known in POLICIES if known == (own or policy)), None)
    if chosen is None:
        raise ConfigurationError(
            f"the policy of consumer {name!r} must be stop, pause or warn, found {own!r}."
        )
    if name == "nexus":
        return NeXusTask(chosen, directory / "nexus")
    if name == "cxi":
        return CXITask(chosen, directory / "cxi")
    if name == "xpcs":
        return XPCSTask(chosen, directory / "xpcs")
    if name == "catalog":
        return CatalogTask(chosen, directory, catalog_uri)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ConfigurationError(
            f"there is no consumer {name!r}: expected {', '.join(BUILT_IN)} or module:factory."
        )
    return Task(name, chosen, _load(name))


def _load(name: str) -> Callable[[Mapping[str, Any]], Iterable[Consumer]]:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigurationError(
            f"the consumer {name!r} cannot be imported: {type(error).__name__}: {error} (looked in "
            f"PYTHONPATH, from {os.getcwd()})."  # noqa: PTH109
        ) from error
    if not callable(found):
        raise ConfigurationError(f"the consumer {name!r} is a {type(found).__name__}, no function.")
    factory: Callable[[Mapping[str, Any]], Iterable[Consumer]] = found
    return factory
