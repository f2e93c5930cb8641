"""What the run management knows of a run, for the files and documents that are made of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from beamline.streaming.config import read_yaml

__all__ = ["RunMetadata"]

#: Where CXI has a place for what the mapping says.
_PLACES = {
    "sample": "sample_1",
    "instrument": "instrument_1",
    "source": "instrument_1/source_1",
}
_TOP = frozenset({"title", "experiment_description"})
_OTHER = "run_metadata"


class RunMetadata:
    """Metadata of runs, from a mapping: for all runs, and below ``runs`` for each by its name.

    Parameters
    ----------
    content
        For example ``{"sample": {"name": "lysozyme"}, "runs": {"42": {"proposal": "p1"}}}``.
    """

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        self._common = {key: value for key, value in (content or {}).items() if key != "runs"}
        runs = (content or {}).get("runs")
        self._runs = {str(k): v for k, v in runs.items()} if isinstance(runs, Mapping) else {}

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None) -> RunMetadata:
        """Read a YAML or JSON file; nothing for None.

        Raises
        ------
        ConfigurationError
            If it can't be read or is no mapping.
        """
        return cls(None if path is None else read_yaml(path))

    def of(self, run: str) -> dict[str, Any]:
        """Return what is known of a run, as it goes into its start document."""
        special = self._runs.get(run)
        return {**self._common, **special} if isinstance(special, Mapping) else dict(self._common)

    def entry(self, run: str) -> dict[str, str | int | float]:
        """Return the same as scalars below ``/entry_1``, where CXI has places for them."""
        return dict(_scalars(self.of(run)))


def _scalars(content: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    for key, value in content.items():
        if key in _PLACES:
            inner = value if isinstance(value, Mapping) else {"name": value}
            yield from _flat(inner, _PLACES[key])
        elif key in _TOP:
            yield key, str(value)
        else:
            yield from _flat({key: value}, _OTHER)


def _flat(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, str | int | float]]:
    for key, value in content.items():
        path = f"{where}/{str(key).replace('/', '_')}"
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield path, "" if value is None else str(value)
        else:
            yield path, value
