"""Metadata that outlives the session: the RunEngine's ``md``, with the scan number in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from beamline.core.errors import ConfigurationError, FileFormatError

__all__ = ["PersistentMetadata"]


class PersistentMetadata(MutableMapping[str, Any]):
    """A dictionary kept in one readable JSON file that is replaced as a whole at each change.

    bluesky's own ``PersistentDict`` writes in place, so that a session killed at the wrong moment
    can't start again. Change a nested value by assigning it anew (``md["sample"] = {...}``).

    Parameters
    ----------
    path
        The file; made at the first change.

    Raises
    ------
    FileFormatError
        If the file exists and is not a JSON object.
    ConfigurationError
        On assignment, if the value can't be expressed in JSON or the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._data: dict[str, Any] = {}
        if self._path.exists():
            try:
                loaded = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise FileFormatError(
                    f"cannot read the session metadata {self._path}: {error}; repair it, or move "
                    "it away to start with empty metadata."
                ) from None
            if not isinstance(loaded, dict):
                raise FileFormatError(
                    f"the session metadata {self._path} must be a JSON object, found a "
                    f"{type(loaded).__name__}."
                )
            self._data = loaded

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._write({**self._data, key: value}, key)

    def __delitem__(self, key: str) -> None:
        if key not in self._data:
            raise KeyError(key)
        self._write({k: v for k, v in self._data.items() if k != key}, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path}, {self._data!r})"

    def _write(self, data: dict[str, Any], key: str) -> None:
        try:
            text = json.dumps(data, indent=2, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"metadata {key!r} cannot be kept in JSON: {error}.") from None
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w", encoding="utf-8") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(self._path)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the session metadata {self._path}: {error.strerror}."
            ) from None
        self._data = data
