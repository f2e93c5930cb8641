"""The validated data that XPCS programs hand to each other and store in files.

Every schema checks itself when it is made, can't be changed afterwards (its arrays are read-only
views: what is passed in is not copied, unless its type changes), and goes to and from a dict of
plain values and arrays. Lengths are in mm and Å here; files in NeXus units are converted by the
facade.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from beamline.core.units import HC
from beamline.xpcs._checks import Field, SchemaValidationError, require, same

__all__ = [
    "ANGLE_UNITS",
    "Q_UNITS",
    "SCHEMA_VERSION",
    "G2Data",
    "GeometryMetadata",
    "MaskSchema",
    "PartitionSchema",
    "QMapSchema",
    "SchemaValidationError",
]

#: Version of the schemas, in files and dicts.
SCHEMA_VERSION = "1.0.0"
Q_UNITS = ("nm^-1", "A^-1")
ANGLE_UNITS = ("rad", "deg")
_METHODS = ("linear", "log")


class _Schema:
    """Conversion and comparison that all schemas share."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    _required: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make one of a mapping as `to_dict` gives it; keys that no field has are ignored.

        Raises
        ------
        SchemaValidationError
            If a key is missing or a value is not valid.
        """
        if not isinstance(data, Mapping):
            raise SchemaValidationError(
                f"{cls.__name__}: expected a mapping of fields, found a {type(data).__name__}."
            )
        require(cls, data, cls._required)
        names = [field.name for field in fields(cls)]
        return cls(**{name: data[name] for name in names if data.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name: arrays as copies, tuples as lists, schemas as dicts."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            same(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _Schema):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True, eq=False)
class GeometryMetadata(_Schema):
    """Where the detector stands, for scattering in transmission.

    Attributes
    ----------
    bcx, bcy
        Beam centre, px: column and row, 0-based, the centre of a pixel being a whole number.
    det_dist
        Sample to detector, mm.
    lambda_
        Wavelength, Å.
    pix_dim
        Edge of a (square) pixel, mm.
    shape
        (H, W) of the detector.
    det_rotation
        Rotation of the detector about the beam, deg, which is added to φ.
    incident_angle
        Angle between beam and surface in reflection, deg; kept for the record.

    Raises
    ------
    SchemaValidationError
        If distance, wavelength or pixel size is not positive, or something is not a number.

    Warns
    -----
    UserWarning
        If the beam centre lies outside of the detector.
    """

    bcx: float
    bcy: float
    det_dist: float
    lambda_: float
    pix_dim: float
    shape: tuple[int, int]
    det_rotation: float | None = None
    incident_angle: float | None = None

    _required: ClassVar[tuple[str, ...]] = (
        "bcx", "bcy", "det_dist", "lambda_", "pix_dim", "shape",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._set(
            bcx=Field(self, "bcx").number(self.bcx),
            bcy=Field(self, "bcy").number(self.bcy),
            det_dist=Field(self, "det_dist").positive(self.det_dist),
            lambda_=Field(self, "lambda_").positive(self.lambda_),
            pix_dim=Field(self, "pix_dim").positive(self.pix_dim),
            shape=Field(self, "shape").image_shape(self.shape),
        )
        for name in ("det_rotation", "incident_angle"):
            value = getattr(self, name)
            if value is not None:
                self._set(**{name: Field(self, name).number(value)})
        rows, columns = self.shape
        # A pixel reaches half its width beyond its centre.
        if not (-0.5 <= self.bcx <= columns - 0.5 and -0.5 <= self.bcy <= rows - 0.5):
            warnings.warn(
                f"The beam centre (column {self.bcx:g}, row {self.bcy:g}) lies outside of the"
                f" detector of shape {self.shape}.",
                stacklevel=3,
            )

    @property
    def energy(self) -> float:
        """Photon energy, keV."""
        return HC / self.lambda_ / 1e3


@dataclass(frozen=True, slots=True, eq=False)
class QMapSchema(_Schema):
    """Where in reciprocal space every pixel of a detector lies.

    Attributes
    ----------
    sqmap, dqmap
        (H, W) float64: q of each pixel for static and dynamic analysis.
    phis
        (H, W) float64: azimuth of each pixel.
    sqmap_unit, dqmap_unit
        ``nm^-1`` or ``A^-1``.
    phis_unit
        ``rad`` or ``deg``.
    mask
        (H, W) int32, 1 = valid.
    partition_map
        (H, W) int32, label of the bin of each pixel, 0 = none.

    Raises
    ------
    SchemaValidationError
        If shapes differ, values are not finite, a unit is unknown or the mask has other values
        than 0 and 1.
    """

    sqmap: npt.NDArray[np.float64]
    dqmap: npt.NDArray[np.float64]
    phis: npt.NDArray[np.float64]
    sqmap_unit: str = "nm^-1"
    dqmap_unit: str = "nm^-1"
    phis_unit: str = "rad"
    mask: npt.NDArray[np.int32] | None = None
    partition_map: npt.NDArray[np.int32] | None = None

    _required: ClassVar[tuple[str, ...]] = ("sqmap", "dqmap", "phis")

    def __post_init__(self) -> None:
        sqmap = Field(self, "sqmap").image(self.sqmap)
        self._set(
            sqmap=sqmap,
            dqmap=Field(self, "dqmap").image(self.dqmap, sqmap.shape),
            phis=Field(self, "phis").image(self.phis, sqmap.shape),
            sqmap_unit=Field(self, "sqmap_unit").choice(self.sqmap_unit, Q_UNITS),
            dqmap_unit=Field(self, "dqmap_unit").choice(self.dqmap_unit, Q_UNITS),
            phis_unit=Field(self, "phis_unit").choice(self.phis_unit, ANGLE_UNITS),
        )
        if self.mask is not None:
            self._set(mask=Field(self, "mask").mask(self.mask, sqmap.shape))
        if self.partition_map is not None:
            labels = Field(self, "partition_map").labels(self.partition_map, sqmap.shape)
            self._set(partition_map=labels)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the detector."""
        rows, columns = self.sqmap.shape
        return rows, columns


@dataclass(frozen=True, slots=True, eq=False)
class G2Data(_Schema):
    """Intensity correlation functions.

    Attributes
    ----------
    g2, g2_err
        (n_q, n_delay) float64: g2 and its standard error; NaN where a bin had no photons.
    delay_times
        (n_delay,) float64, s.
    q_values
        n_q numbers.

    Raises
    ------
    SchemaValidationError
        If lengths disagree, a delay or an error is negative, or a number is infinite.
    """

    g2: npt.NDArray[np.float64]
    g2_err: npt.NDArray[np.float64]
    delay_times: npt.NDArray[np.float64]
    q_values: tuple[float, ...]

    _required: ClassVar[tuple[str, ...]] = ("g2", "g2_err", "delay_times", "q_values")

    def __post_init__(self) -> None:
        g2 = Field(self, "g2").numbers(self.g2, dimensions=2, nan=True)
        g2_err = Field(self, "g2_err").numbers(self.g2_err, g2.shape, dimensions=2, nan=True)
        delays = Field(self, "delay_times").numbers(self.delay_times, (g2.shape[1],))
        q_values = Field(self, "q_values").numbers(self.q_values, (g2.shape[0],))
        for name, values in (("g2_err", g2_err), ("delay_times", delays)):
            if (values < 0.0).any():
                raise Field(self, name).fail("numbers of at least 0", f"{np.nanmin(values):g}")
        self._set(g2=g2, g2_err=g2_err, delay_times=delays, q_values=tuple(q_values.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class PartitionSchema(_Schema):
    """Pixels sorted into bins.

    Attributes
    ----------
    partition_map
        (H, W) int32: bin 1 … num_pts of each pixel, 0 = none.
    num_pts
        Number of bins.
    val_list
        Value (q, φ, …) of each bin.
    num_list
        Number of pixels of each bin.
    metadata
        Where the detector stood; None if that is not known.
    version
        Of the schema.
    mask
        (H, W) int32, 1 = valid.
    method
        Spacing of the bins: ``linear`` or ``log``.

    Raises
    ------
    SchemaValidationError
        If lengths differ from `num_pts`, a label is greater, `num_list` is not what the map has, or
        no pixel is in a bin.
    """

    partition_map: npt.NDArray[np.int32]
    num_pts: int
    val_list: tuple[float, ...]
    num_list: tuple[int, ...]
    metadata: GeometryMetadata | None = None
    version: str = SCHEMA_VERSION
    mask: npt.NDArray[np.int32] | None = None
    method: str = "linear"

    _required: ClassVar[tuple[str, ...]] = ("partition_map", "num_pts", "val_list", "num_list")

    def __post_init__(self) -> None:
        number = Field(self, "num_pts").count(self.num_pts, least=1)
        values = Field(self, "val_list").numbers(self.val_list, (number,))
        counts = Field(self, "num_list").numbers(self.num_list, (number,))
        labels = Field(self, "partition_map").integers(self.partition_map)
        _check_counts(Field(self, "partition_map"), Field(self, "num_list"), labels, counts)
        self._set(
            partition_map=labels,
            num_pts=number,
            val_list=tuple(values.tolist()),
            num_list=tuple(counts.astype(np.int64).tolist()),
            metadata=_geometry(self, labels.shape),
            version=Field(self, "version").text(self.version),
            method=Field(self, "method").choice(self.method, _METHODS),
        )
        if self.mask is not None:
            self._set(mask=Field(self, "mask").mask(self.mask, labels.shape))


@dataclass(frozen=True, slots=True, eq=False)
class MaskSchema(_Schema):
    """Which pixels of a detector are used.

    Attributes
    ----------
    mask
        (H, W) int32, 1 = valid; booleans are taken and stored as int32.
    metadata
        Where the detector stood; None if that is not known.
    version
        Of the schema.
    description
        Free text.

    Raises
    ------
    SchemaValidationError
        If there are other values than 0 and 1, or `metadata` is of another shape.
    """

    mask: npt.NDArray[np.int32]
    metadata: GeometryMetadata | None = None
    version: str = SCHEMA_VERSION
    description: str = ""

    _required: ClassVar[tuple[str, ...]] = ("mask",)

    def __post_init__(self) -> None:
        mask = Field(self, "mask").mask(self.mask)
        self._set(
            mask=mask,
            metadata=_geometry(self, mask.shape),
            version=Field(self, "version").text(self.version),
            description=Field(self, "description").text(self.description),
        )


def _geometry(schema: PartitionSchema | MaskSchema, shape: tuple[int, ...]) -> Any:
    """Return the metadata of a schema, checked against the shape of its map."""
    metadata: Any = schema.metadata
    if metadata is None:
        return None
    if isinstance(metadata, Mapping):
        metadata = GeometryMetadata.from_dict(metadata)
    field = Field(schema, "metadata")
    if not isinstance(metadata, GeometryMetadata):
        raise field.fail("a GeometryMetadata or a mapping", f"a {type(metadata).__name__}")
    if metadata.shape != shape:
        raise field.fail(f"shape {shape}, as the map has it", f"shape {metadata.shape}")
    return metadata


def _check_counts(
    labels_field: Field,
    counts_field: Field,
    labels: npt.NDArray[np.int32],
    counts: npt.NDArray[np.float64],
) -> None:
    number = len(counts)
    # As unsigned numbers, negative ones are large: one pass finds both.
    if labels.view(np.uint32).max() > number:
        raise labels_field.fail(f"labels of 0 to {number}", f"{labels.min()} to {labels.max()}")
    found = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    if not found.any():
        raise labels_field.fail("a pixel in some bin", "none: all are masked (0)")
    if not np.array_equal(found, counts):
        wrong = int(np.flatnonzero(found != counts)[0])
        raise counts_field.fail(
            f"{found[wrong]} pixels in bin {wrong + 1}, as the map has them", f"{counts[wrong]:g}"
        )
