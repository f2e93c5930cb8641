"""What a viewer of XPCS data holds and computes, without any GUI.

Frames, or a result file, together with mask and bins. To apply another mask or other bins computes
scattering curve and g2 anew.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import BeamlineError
from beamline.xpcs._checks import Field
from beamline.xpcs.adapters import host_array
from beamline.xpcs.correlation import Correlation
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.multitau import MultiTau
from beamline.xpcs.partitions import Kind, QPartition, make_partition
from beamline.xpcs.schemas import G2Data, GeometryMetadata, PartitionSchema

__all__ = ["KernelError", "ViewerKernel"]

Array = npt.NDArray[np.float64]
FilePath = str | os.PathLike[str]


class KernelError(BeamlineError, ValueError):
    """What is asked for needs data that are not loaded."""


class ViewerKernel:
    """Frames or a result, a mask, bins, and what follows from them.

    Parameters
    ----------
    facade
        What reads files; by default one of its own.
    """

    def __init__(self, facade: HDF5Facade | None = None) -> None:
        self.facade = HDF5Facade() if facade is None else facade
        self.path: FilePath | None = None
        self._frames: npt.NDArray[Any] | None = None
        self._frame_time = 0.0
        self._image: Array | None = None
        self._loaded: QPartition | None = None
        self._partition: QPartition | None = None
        self._mask: npt.NDArray[np.int32] | None = None
        self._saxs1d: tuple[Array, Array] | None = None
        self._g2: G2Data | None = None

    def load_frames(
        self,
        frames: npt.NDArray[Any],
        frame_time: float,
        metadata: GeometryMetadata,
        *,
        n_static: int = 60,
        n_dynamic: int = 6,
    ) -> None:
        """Take frames (N, H, W) that were taken every `frame_time` s, and make bins of q."""
        stack = host_array(frames)
        if stack.ndim != 3 or stack.shape[1:] != metadata.shape or len(stack) < 2:
            raise KernelError(
                f"Frames must be of shape (N, {metadata.shape[0]}, {metadata.shape[1]}) with N of"
                f" at least 2, found {stack.shape}."
            )
        if not (np.isfinite(frame_time) and frame_time > 0.0):
            raise KernelError(
                f"The frame time is {frame_time} s; it must be greater than 0: from one frame to"
                " the next."
            )
        bins = make_partition(metadata, n_static=n_static, n_dynamic=n_dynamic)
        self.path = None
        self._frames, self._frame_time = stack, frame_time
        self._image = stack.mean(axis=0, dtype=np.float64)
        self._start(bins)

    def load_file(self, path: FilePath) -> None:
        """Take a result file: its mean image, bins and g2."""
        image = self.facade.read_dataset(path, "/xpcs/temporal_mean/scattering_2d")
        bins = self.facade.read_q_partition(path, "/xpcs/qmap")
        self._image = image.reshape(image.shape[-2:]).astype(np.float64)
        self._frames = None
        self.path = path
        self._start(bins)

    def _start(self, bins: QPartition) -> None:
        self._loaded = self._partition = bins
        self._mask = bins.mask
        self._forget()

    def apply_mask(self, mask: npt.NDArray[Any]) -> None:
        """Use only the pixels that are 1 in `mask` (H, W), and compute everything anew.

        Raises
        ------
        KernelError, SchemaValidationError, PartitionError
            If nothing is loaded, the mask does not fit, or no pixel is left.
        """
        loaded = self._need(self._loaded, "bins")
        checked = Field(self, "mask").mask(mask, loaded.shape)
        self._partition = loaded.masked(checked)
        self._mask = checked
        self._compute()

    def apply_qmap(self, partition: PartitionSchema | dict[str, Any]) -> None:
        """Use other bins, as the mask editor exports them, and compute everything anew."""
        image = self._need(self._image, "an image")
        if not isinstance(partition, PartitionSchema):
            partition = PartitionSchema.from_dict(partition)
        if partition.partition_map.shape != image.shape:
            raise KernelError(
                f"The bins are of shape {partition.partition_map.shape}, the data of {image.shape}."
            )
        self._loaded = self._partition = QPartition.from_schema(partition)
        self._mask = self._partition.mask
        self._compute()

    @property
    def mask(self) -> npt.NDArray[np.int32]:
        """(H, W), 1 = used."""
        return self._need(self._mask, "a mask")

    @property
    def partition(self) -> QPartition:
        """The bins without masked pixels."""
        return self._need(self._partition, "bins")

    @property
    def image(self) -> Array:
        """(H, W) mean counts of a frame."""
        return self._need(self._image, "an image")

    @property
    def frames(self) -> npt.NDArray[Any]:
        """(N, H, W) counts."""
        return self._need(self._frames, "frames (a result file has none)")

    @property
    def frame_time(self) -> float:
        """From one frame to the next, s."""
        return self._frame_time

    @property
    def saxs1d(self) -> tuple[Array, Array]:
        """Values of q, 1/nm, and mean counts per pixel of each static bin."""
        if self._saxs1d is None:
            bins = self.partition.static
            # A pixel without a value would take its whole bin with it.
            finite = np.isfinite(self.image)
            weights = np.where(finite, self.image, 0.0).ravel()
            labels = np.where(finite, bins.roi_map, 0).ravel()
            total = np.bincount(labels, weights, minlength=bins.n_labels + 1)[1:]
            number = np.bincount(labels, minlength=bins.n_labels + 1)[1:]
            with np.errstate(invalid="ignore", divide="ignore"):
                self._saxs1d = bins.values, total / number
        return self._saxs1d

    @property
    def g2(self) -> G2Data:
        """g2 of the dynamic bins: of the frames, or as the file has it.

        Raises
        ------
        KernelError
            If other bins or another mask than the file's are applied and there are no frames.
        """
        if self._g2 is None:
            self._g2 = self._of_frames() if self._frames is not None else self._of_file()
        return self._g2

    def _of_frames(self) -> G2Data:
        bins = self.partition
        levels = max(1, int(np.log2(max(len(self.frames) / 8, 1))))
        correlator = MultiTau(
            bins.dynamic_roi_map, bins.static_roi_map, self._frame_time, levels=levels
        )
        correlator.add(self.frames)
        found: Correlation = correlator.result()
        return G2Data(
            found.g2.T, found.g2_err_block.T, found.delays, tuple(bins.dynamic_q.tolist())
        )

    def stored(self, what: str, kind: Kind = "dynamic") -> FilePath:
        """Return the result file, whose `what` is of the bins (dynamic or static) in use.

        Raises
        ------
        KernelError
            If other bins or another mask than the file's are applied: it has no frames to compute
            `what` anew.
        """
        path: FilePath = self._need(self.path, "frames or a result file")
        stored = self.facade.read_q_partition(path, "/xpcs/qmap")
        theirs, ours = (getattr(bins, kind).roi_map for bins in (stored, self.partition))
        if not np.array_equal(theirs, ours):
            raise KernelError(
                f"{what} of other bins or another mask needs the frames, and {path} is a result"
                " without them; load the frames."
            )
        return path

    def _of_file(self) -> G2Data:
        return self.facade.read_g2_data(self.stored("g2"))

    def _compute(self) -> None:
        self._forget()
        _ = self.saxs1d
        if self._frames is not None:
            _ = self.g2

    def _forget(self) -> None:
        self._saxs1d = None
        self._g2 = None

    @staticmethod
    def _need(value: Any, what: str) -> Any:
        if value is None:
            raise KernelError(f"This needs {what}; load frames or a result file first.")
        return value
