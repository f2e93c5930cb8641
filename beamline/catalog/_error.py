"""What goes wrong with a catalogue."""

from __future__ import annotations

from beamline.core.errors import BeamlineError

__all__ = ["CatalogError", "UnreachableError"]


class CatalogError(BeamlineError, RuntimeError):
    """The catalogue can't be opened, or a run can't be brought into it."""


class UnreachableError(CatalogError):
    """The server of the catalogue does not answer at present; nothing is wrong with the run."""
