"""Pixels sorted into bins of q and azimuth, fine ones (static) within coarse ones (dynamic).

Intensities are normalised per static bin and correlation functions averaged per dynamic bin, so
every static bin lies within one dynamic bin: the number of static bins is a multiple of the number
of dynamic ones, and a dynamic bin is so many static ones. Bins without a pixel get no label: label
i stands for bin ``index_mapping[i - 1]``, which counts through all azimuths of a q before the next
q (the layout of the APS).
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.xpcs._checks import Field
from beamline.xpcs.geometry import phi_map, q_values
from beamline.xpcs.schemas import GeometryMetadata, PartitionSchema

__all__ = ["Binning", "PartitionError", "QPartition", "make_partition"]

Labels = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Method = Literal["linear", "log"]
Kind = Literal["dynamic", "static"]

#: Bins are compared at this many decimals of a bin's width, so that rounding moves no pixel.
_DECIMALS = 9


class PartitionError(BeamlineError, ValueError):
    """Pixels can't be sorted into bins as asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Binning:
    """One set of bins.

    Attributes
    ----------
    roi_map
        (H, W) int32: label 1 … n of each pixel, 0 = masked.
    v_list_dim0, v_list_dim1
        Centres of the bins along both axes, those without a pixel included.
    index_mapping
        (n,) int64: for each label, its bin, counted through the second axis first.
    """

    roi_map: Labels
    v_list_dim0: Numbers
    v_list_dim1: Numbers
    index_mapping: Indices
    check_labels: InitVar[bool] = True

    def __post_init__(self, check_labels: bool) -> None:
        number = len(self.index_mapping)
        labels = Field(self, "roi_map").labels(self.roi_map)
        object.__setattr__(self, "roi_map", labels)
        if check_labels and labels.max() != number:
            raise PartitionError(
                f"A map of bins has labels up to {labels.max()}, but the list of bins has {number}."
            )
        if number and not 0 <= self.index_mapping.min() <= self.index_mapping.max() < self.size:
            raise PartitionError(
                f"A list of bins has indices from {self.index_mapping.min()} to"
                f" {self.index_mapping.max()}; there are {self.size} bins."
            )

    def where(self, valid: npt.NDArray[np.bool_]) -> Binning:
        """Return the bins without the pixels that are not valid, labelled anew without gaps."""
        labels = np.where(valid, self.roi_map, 0)
        occupied = np.bincount(labels.ravel(), minlength=self.n_labels + 1) > 0
        occupied[0] = False
        return Binning(
            np.cumsum(occupied)[labels].astype(np.int32),
            self.v_list_dim0,
            self.v_list_dim1,
            self.index_mapping[occupied[1:]],
        )

    @property
    def num_pts(self) -> tuple[int, int]:
        """Number of bins along both axes."""
        return len(self.v_list_dim0), len(self.v_list_dim1)

    @property
    def size(self) -> int:
        """Number of bins, those without a pixel included."""
        return len(self.v_list_dim0) * len(self.v_list_dim1)

    @property
    def n_labels(self) -> int:
        """Number of bins that have pixels."""
        return len(self.index_mapping)

    @property
    def values(self) -> Numbers:
        """Value along the first axis (q) of each label."""
        return self.v_list_dim0[self.index_mapping // len(self.v_list_dim1)]

    @property
    def second_values(self) -> Numbers:
        """Value along the second axis (azimuth) of each label."""
        return self.v_list_dim1[self.index_mapping % len(self.v_list_dim1)]

    @property
    def num_list(self) -> Indices:
        """Number of pixels of each label."""
        return np.bincount(self.roi_map.ravel(), minlength=self.n_labels + 1)[1:]


@dataclass(frozen=True, slots=True, eq=False)
class QPartition:
    """Static bins within dynamic bins.

    Attributes
    ----------
    dynamic, static
        The bins.
    mask
        (H, W) int32: 1 where a pixel is in a bin.
    metadata
        Where the detector stood; None if that is not known.
    map_names, map_units
        What the two axes are, ``("q", "phi")`` in ``("nm^-1", "deg")`` if made here.
    method
        Spacing of the bins along the first axis.

    Raises
    ------
    PartitionError
        If no pixel is in a bin, the maps differ in which pixels are, or a static bin lies in more
        than one dynamic bin.
    """

    dynamic: Binning
    static: Binning
    mask: Labels
    metadata: GeometryMetadata | None = None
    map_names: tuple[str, str] = ("q", "phi")
    map_units: tuple[str, str] = ("nm^-1", "deg")
    method: Method = "linear"

    def __post_init__(self) -> None:
        dynamic, static = self.dynamic.roi_map, self.static.roi_map
        if dynamic.shape != static.shape:
            raise PartitionError(
                f"The dynamic bins are of shape {dynamic.shape}, the static ones of {static.shape}."
            )
        if not dynamic.any():
            raise PartitionError("No pixel is in a bin: all of them are masked.")
        if not np.array_equal(dynamic > 0, static > 0):
            raise PartitionError(
                "Some pixels are in a dynamic bin and in no static one, or reverse."
            )
        if not np.array_equal(self._dynamic_label_of_static[static], dynamic):
            raise PartitionError("A static bin has pixels of more than one dynamic bin.")
        mask = Field(self, "mask").mask(self.mask, dynamic.shape)
        object.__setattr__(self, "mask", mask)

    @property
    def _dynamic_label_of_static(self) -> Labels:
        labels = np.zeros(self.static.n_labels + 1, np.int32)
        labels[self.static.roi_map] = self.dynamic.roi_map
        return labels

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the detector."""
        rows, columns = self.dynamic.roi_map.shape
        return rows, columns

    @property
    def dynamic_roi_map(self) -> Labels:
        """(H, W) int32: dynamic label of each pixel, 0 = masked."""
        return self.dynamic.roi_map

    @property
    def static_roi_map(self) -> Labels:
        """(H, W) int32: static label of each pixel, 0 = masked."""
        return self.static.roi_map

    @property
    def dynamic_q(self) -> Numbers:
        """Value of q at the centre of each dynamic label's bin, in ``map_units[0]`` (1/nm)."""
        return self.dynamic.values

    @property
    def static_q(self) -> Numbers:
        """Value of q at the centre of each static label's bin, in ``map_units[0]`` (1/nm)."""
        return self.static.values

    @property
    def dynamic_phi(self) -> Numbers:
        """Azimuth at the centre of each dynamic label's bin, in ``map_units[1]`` (deg)."""
        return self.dynamic.second_values

    @property
    def static_phi(self) -> Numbers:
        """Azimuth at the centre of each static label's bin, in ``map_units[1]`` (deg)."""
        return self.static.second_values

    @property
    def static_to_dynamic(self) -> Labels:
        """(n_static,) int32: dynamic label (from 1) in which each static label lies."""
        return self._dynamic_label_of_static[1:]

    def mean_q(self, kind: Kind = "dynamic", *, exact: bool = False) -> Numbers:
        """Return the mean q of the pixels of each label, 1/nm.

        Raises
        ------
        PartitionError
            If it is not known where the detector stood.
        """
        if self.metadata is None:
            raise PartitionError("The mean q of bins needs the geometry, which is not known.")
        bins = self._bins(kind)
        total = np.bincount(
            bins.roi_map.ravel(),
            q_values(self.metadata, exact=exact).ravel(),
            minlength=bins.n_labels + 1,
        )
        return total[1:] / bins.num_list

    def masked(self, mask: npt.NDArray[Any]) -> QPartition:
        """Return the same bins without the pixels that `mask` (H, W; 1 = valid) leaves out.

        Raises
        ------
        PartitionError, SchemaValidationError
            If no pixel is left, or the mask is of another shape.
        """
        valid = (Field(self, "mask").mask(mask, self.shape) > 0) & (self.dynamic.roi_map > 0)
        return replace(
            self,
            dynamic=self.dynamic.where(valid),
            static=self.static.where(valid),
            mask=valid.astype(np.int32),
        )

    @classmethod
    def from_schema(cls, schema: PartitionSchema) -> QPartition:
        """Make one of a list of bins (q in 1/nm), each dynamic bin being one static bin, too."""
        every = Binning(
            schema.partition_map,
            np.array(list(schema.val_list)),
            np.zeros(1),
            np.arange(schema.num_pts),
            check_labels=False,
        )
        valid = schema.partition_map > 0
        if schema.mask is not None:
            valid &= schema.mask > 0
        bins = every.where(valid)
        method: Method = "log" if schema.method == "log" else "linear"
        return cls(bins, bins, valid.astype(np.int32), schema.metadata, method=method)

    def schema(self, kind: Kind = "dynamic") -> PartitionSchema:
        """Return the bins of one kind as a schema."""
        bins = self._bins(kind)
        return PartitionSchema(
            partition_map=bins.roi_map,
            num_pts=bins.n_labels,
            val_list=tuple(bins.values.tolist()),
            num_list=tuple(bins.num_list.tolist()),
            metadata=self.metadata,
            mask=self.mask,
            method=self.method,
        )

    def _bins(self, kind: Kind) -> Binning:
        if kind not in ("dynamic", "static"):
            raise PartitionError(f"There are dynamic and static bins, but no {kind!r} ones.")
        return self.dynamic if kind == "dynamic" else self.static


def make_partition(
    metadata: GeometryMetadata,
    mask: npt.NDArray[Any] | None = None,
    *,
    n_static: int = 100,
    n_dynamic: int = 10,
    n_static_phi: int = 1,
    n_dynamic_phi: int = 1,
    method: Method = "linear",
    q_range: tuple[float, float] | None = None,
    phi_offset: float = 0.0,
    symmetry: int = 1,
    exact: bool = False,
) -> QPartition:
    """Sort the valid pixels of a detector into bins of q and azimuth.

    Parameters
    ----------
    metadata
        Where the detector stands.
    mask
        (H, W), 1 = valid; by default all pixels are.
    n_static, n_dynamic
        Numbers of bins of q; the first is a multiple of the second.
    n_static_phi, n_dynamic_phi
        Numbers of bins of azimuth; the first is a multiple of the second.
    method
        Edges of q at equal distances (``linear``) or equal ratios (``log``), from the least to the
        greatest q of a valid pixel. A pixel at q = 0 is in the first logarithmic bin.
    q_range
        Least and greatest q, 1/nm, of pixels that are used; by default all.
    phi_offset
        Added to the azimuth before it is binned, deg.
    symmetry
        Number of sectors of 360°/symmetry that are equivalent and laid upon each other.
    exact
        q = 2k₀·sin(α/2) instead of k₀·sin α.

    Raises
    ------
    PartitionError
        If no pixel is left, or the numbers of bins do not fit.
    SchemaValidationError
        If the mask does not fit the detector.
    """
    _check_numbers("q", n_static, n_dynamic)
    _check_numbers("azimuth", n_static_phi, n_dynamic_phi)
    if method not in ("linear", "log"):
        raise PartitionError(f"There is no spacing {method!r} of bins; choose linear or log.")
    if symmetry < 1:
        raise PartitionError(f"A symmetry of {symmetry} sectors is impossible; the least is 1.")
    q = q_values(metadata, exact=exact)
    valid = _valid(metadata, mask, q, q_range)
    q_index, q_edges = _bin_q(q[valid], n_static, method)
    phi_index, phi_edges = _bin_phi(metadata, valid, n_static_phi, phi_offset, symmetry)
    q_ratio, phi_ratio = n_static // n_dynamic, n_static_phi // n_dynamic_phi
    static = _binning(valid, q_index, phi_index, q_edges, phi_edges, method)
    dynamic = _binning(
        valid, q_index // q_ratio, phi_index // phi_ratio,
        q_edges[::q_ratio], phi_edges[::phi_ratio], method,
    )  # fmt: skip
    return QPartition(dynamic, static, valid.astype(np.int32), metadata, method=method)


def _check_numbers(axis: str, static: int, dynamic: int) -> None:
    if static < 1 or dynamic < 1:
        raise PartitionError(
            f"{static} static and {dynamic} dynamic bins of {axis} are asked for; the least is 1."
        )
    if static % dynamic:
        raise PartitionError(
            f"{static} static bins of {axis} do not divide into {dynamic} dynamic ones;"
            f" take {-(-static // dynamic) * dynamic} static bins."
        )


def _valid(
    metadata: GeometryMetadata,
    mask: npt.NDArray[Any] | None,
    q: Numbers,
    q_range: tuple[float, float] | None,
) -> npt.NDArray[np.bool_]:
    valid = np.ones(metadata.shape, bool)
    if mask is not None:
        valid = Field(QPartition, "mask").mask(mask, metadata.shape) > 0
    if not valid.any():
        raise PartitionError("No pixel can be sorted into bins: all of them are masked.")
    if q_range is None:
        return valid
    least, greatest = q_range
    if not least < greatest:
        raise PartitionError(f"The range of q goes from {least:g} to {greatest:g} 1/nm: no range.")
    inside = valid & (q >= least) & (q <= greatest)
    if not inside.any():
        raise PartitionError(
            f"No valid pixel has a q from {least:g} to {greatest:g} 1/nm: they have"
            f" {q[valid].min():g} to {q[valid].max():g} 1/nm."
        )
    return inside


def _bin_q(q: Numbers, number: int, method: Method) -> tuple[Indices, Numbers]:
    if method == "linear":
        return _bin(q, number)
    positive = q[q > 0.0]
    if not positive.size:
        raise PartitionError("Logarithmic bins need a pixel at q > 0; the only one is at q = 0.")
    index, edges = _bin(np.log(np.maximum(q, positive.min())), number)
    return index, np.exp(edges)


def _bin_phi(
    metadata: GeometryMetadata,
    valid: npt.NDArray[np.bool_],
    number: int,
    offset: float,
    symmetry: int,
) -> tuple[Indices, Numbers]:
    phi = phi_map(metadata, unit="deg")[valid]
    if offset or symmetry > 1:
        sector = 360.0 / symmetry
        # Rounded, so that −180° and 180° do not end up in bins at either end.
        phi = np.mod(np.round(phi + offset + 180.0, _DECIMALS), sector)
        phi -= 180.0 if symmetry == 1 else 0.0
    return _bin(phi, number)


def _bin(values: Numbers, number: int) -> tuple[Indices, Numbers]:
    """Return the bin of each value (from 0) and the edges, from the least to the greatest value."""
    least, greatest = float(values.min()), float(values.max())
    edges = np.linspace(least, greatest, number + 1)
    if greatest == least:
        return np.zeros(values.shape, np.int64), edges
    position = np.round((values - least) * (number / (greatest - least)), _DECIMALS)
    return np.minimum(position.astype(np.int64), number - 1), edges


def _binning(
    valid: npt.NDArray[np.bool_],
    q_index: Indices,
    phi_index: Indices,
    q_edges: Numbers,
    phi_edges: Numbers,
    method: Method,
) -> Binning:
    low, high = q_edges[:-1], q_edges[1:]
    centres = np.sqrt(low * high) if method == "log" else 0.5 * (low + high)
    phi_centres = 0.5 * (phi_edges[:-1] + phi_edges[1:])
    natural = q_index * len(phi_centres) + phi_index
    occupied = np.bincount(natural, minlength=len(centres) * len(phi_centres)) > 0
    labels = np.zeros(valid.shape, np.int32)
    labels[valid] = np.cumsum(occupied)[natural]
    return Binning(labels, centres, phi_centres, np.flatnonzero(occupied))
