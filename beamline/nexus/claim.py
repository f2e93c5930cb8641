"""The claim of a run that it follows an application definition, made once all parts are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.units import energy_to_wavelength
from beamline.nexus.builder import Builder, Stream
from beamline.nexus.metadata import ENTRY, INSTRUMENT
from beamline.nexus.tree import Column, Feed

__all__ = ["Claim", "add_source", "wavelength_of"]


@dataclass(frozen=True)
class Claim:
    """What an application definition needs beyond what has been laid out.

    The energy may be in the main stream or in another one that comes later, such as the baseline;
    so `definition` is written when everything is known, at the stop document at the latest.

    Attributes
    ----------
    definition
        Name of the application definition.
    wavelength
        Path where the wavelength (Å) goes.
    needed
        Path → what is missing if it is not there.
    fillers
        Path → units of numbers that the definition wants and that may be unknown (NaN).
    """

    definition: str
    wavelength: str
    needed: Mapping[str, str]
    fillers: Mapping[str, str] = field(default_factory=dict)

    def offer(self, builder: Builder, stream: Stream) -> None:
        """Take the wavelength from the energy of a stream, unless it is known."""
        key = stream.keys.get(builder.options.roles["energy"])
        if self.wavelength in builder.tree or key is None or not key.is_scalar:
            return
        function = _wavelength_of_kev if key.units == "keV" else wavelength_of
        feed = Feed("derived", inputs=(key.name,), function=function)
        column = Column(stream.name, feed, np.dtype(np.float64), (), {"units": "angstrom"})
        builder.add(self.wavelength, column)

    def settle(self, builder: Builder, *, final: bool = False) -> bool:
        """Write the definition if everything is there.

        Parameters
        ----------
        final
            Nothing more will come: fill in what may be unknown, or say what is missing.

        Returns
        -------
        bool
            Whether the claim needs no more attention.
        """
        missing = [what for path, what in self.needed.items() if path not in builder.tree]
        unknown = [path for path in self.fillers if path not in builder.tree]
        if not final and (missing or unknown):
            return False
        if missing:
            builder.decline(self.definition, "the documents name no", *missing)
            return True
        for path in unknown:
            builder.field(path, float("nan"), units=self.fillers[path])
        add_source(builder)
        builder.field(f"{ENTRY}/definition", self.definition)
        return True


def add_source(builder: Builder) -> None:
    """Add the source where the start document has none: the definitions want one."""
    path = builder.group(f"{INSTRUMENT}/source", "NXsource")
    for key, default in (
        ("name", "unspecified"), ("type", "Synchrotron X-ray Source"), ("probe", "x-ray"),
    ):  # fmt: skip
        builder.field(f"{path}/{key}", default)


def wavelength_of(energy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Wavelength (Å) of energies (eV); NaN where an energy is not positive."""
    valid = energy > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(valid, energy_to_wavelength(energy), np.nan)


def _wavelength_of_kev(energy: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    return wavelength_of(1e3 * energy)
