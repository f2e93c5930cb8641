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
#: What the files themselves hold there.
_TAKEN = frozenset(
    {
        "sample_1/geometry_1",
        "instrument_1/detector_1",
        "instrument_1/source_1",
        "instrument_1/source_1/energy",
    }
)
_TOP = frozenset({"title", "experiment_description"})
_OTHER = "run_metadata"
_LEAST, _GREATEST = -(2**63), 2**64 - 1


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

    def of(self, run: str, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what is known of a run, as it goes into its start document.

        Parameters
        ----------
        run
            Its name.
        told
            What its items say of it; the run management knows better.
        """
        special = self._runs.get(run)
        known = {**self._common, **special} if isinstance(special, Mapping) else dict(self._common)
        return {**(told or {}), **known}

    def entry(
        self, run: str, told: Mapping[str, Any] | None = None
    ) -> dict[str, str | int | float]:
        """Return the same as scalars below ``/entry_1``, where CXI has places for them.

        What the files hold themselves (energy of the source, the detector) stays theirs: the
        mapping's own is below ``run_metadata`` then.
        """
        made: dict[str, str | int | float] = {}
        groups: set[str] = set()
        for path, value in _scalars(self.of(run, told)):
            *above, last = path.split("/")
            group = ""
            for part in above:
                group = f"{group}/{part}".lstrip("/")
                while group in made:
                    group += "_"
                groups.add(group)
            free = f"{group}/{last}".lstrip("/")
            while free in made or free in groups:
                free += "_"
            made[free] = value
        return made


def _scalars(content: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    for key, value in content.items():
        place = _PLACES.get(str(key))
        if place is not None:
            inner = value if isinstance(value, Mapping) else {"name": value}
            for name, one in inner.items():
                taken = f"{place}/{name}" in _TAKEN
                yield from _flat({name: one}, f"{_OTHER}/{key}" if taken else place)
        elif key in _TOP:
            yield str(key), _text(value)
        else:
            yield from _flat({key: value}, _OTHER)


def _flat(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, str | int | float]]:
    for key, value in content.items():
        path = f"{where}/{_name(key)}"
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif isinstance(value, float) or (
            isinstance(value, int) and not isinstance(value, bool) and _LEAST <= value <= _GREATEST
        ):
            yield path, value
        else:
            yield path, "" if value is None else _text(value)


def _name(key: object) -> str:
    name = _text(key).replace("/", "_")
    return name if name.strip(".") else f"_{name}"


def _text(value: object) -> str:
    # HDF5 has neither NUL in text nor what is no Unicode.
    return str(value).replace("\0", "").encode(errors="replace").decode()
