"""Where a catalogue is: in files of the data directory, or on a tiled server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from beamline.catalog._error import CatalogError

__all__ = ["Location"]


@dataclass(frozen=True)
class Location:
    """One catalogue of the runs of one data directory.

    Attributes
    ----------
    data_dir
        Its ``journal/`` holds the runs.
    uri
        Address of a tiled server; None for the catalogue in the data directory itself.
    """

    data_dir: Path
    uri: str | None = None

    @classmethod
    def of(cls, data_dir: str | os.PathLike[str], uri: str | None = None) -> Location:
        """Return the location that a data directory and the setting ``catalog_uri`` name.

        Raises
        ------
        CatalogError
            If the address is none of an HTTP server, or carries a secret.
        """
        if uri is not None:
            _check(uri)
        return cls(Path(data_dir).resolve(), uri.rstrip("/") if uri is not None else None)

    @property
    def directory(self) -> Path:
        """The directory of the list of runs that are in, and of the locks."""
        if self.uri is None:
            return self.data_dir / "catalog"
        address = urlsplit(self.uri)
        return self.data_dir / "catalog-server" / quote(address.netloc + address.path, safe="")

    def __str__(self) -> str:
        return f"on {self.uri}" if self.uri is not None else f"in {self.directory}"


def _check(uri: str) -> None:
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise CatalogError(
            f"catalog_uri {uri!r} is no address of a tiled server: write it like "
            "http://tiled.example.org:8000; without it the catalogue is in the data directory."
        )
    if address.password is not None or "api_key" in parse_qs(address.query):
        raise CatalogError(
            f"catalog_uri for {address.hostname} carries a secret, which logs and lists of "
            "processes would show: give the key in the environment variable TILED_API_KEY."
        )
