"""Bragg peaks of one event, from the two-class logits of a segmentation and the detector's panels.

The pixels with ``logits[:, 1] > logits[:, 0]`` make connected components on each panel; each is
measured on the image, with the background around it subtracted. By compiled kernels, or where
numba is missing or disabled by SciPy's graphs, with the same result.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.compiled import numba_works
from beamline.core.errors import BeamlineError
from beamline.crystallography._peak_graphs import (
    CLIP,
    HALF_WINDOW,
    Components,
    Frame,
    find_components,
)
from beamline.crystallography.peaks import Peaks

__all__ = ["EventPeaks", "LogitsError", "find_event_peaks", "put_on_panels"]


class LogitsError(BeamlineError, ValueError):
    """Logits and images of an event are not what a segmentation hands over."""


@dataclass(frozen=True)
class EventPeaks(Peaks):
    """Peaks of one event on the panels of a detector, strongest first; arrays of shape (n,).

    Positions are pixel indices on the panel, without padding: the centre of the first pixel is
    (0, 0).

    Attributes
    ----------
    panel
        Number of the panel, int32.
    truncated
        Peaks left out because there were more than `max_num_peak`: the weakest.
    in_padding
        Components left out because they lie in the padding.
    too_small
        Components left out because they have fewer than `min_pixels` pixels.
    at_edge
        Components left out because their brightest pixel is at the edge of the panel or beside a
        bad pixel: the centre may lie beyond.
    dark
        Components left out because they have no intensity, or nothing around them is background.
    masked_pixels
        Peak pixels left out because they are bad (`valid`, NaN, infinite).
    """

    panel: npt.NDArray[np.int32]
    truncated: int = 0
    in_padding: int = 0
    too_small: int = 0
    at_edge: int = 0
    dark: int = 0
    masked_pixels: int = 0


def find_event_peaks(
    logits: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    *,
    padding: tuple[int, int] = (0, 0),
    original_shape: tuple[int, ...] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
    connectivity: int = 8,
    min_pixels: int = 1,
    max_num_peak: int = 2048,
    gain: float = 1.0,
) -> EventPeaks:
    """Find and measure the peaks of one event.

    The centre of a component is its centroid weighted by the intensity above the background, which
    is the mean of the pixels within 7 px of the brightest one that no peak has or touches, and that
    don't stick out.

    Parameters
    ----------
    logits
        float32 (P, 2, H', W'): P panels, class 1 = peak. Views with any strides are not copied.
    images
        Any real type, (P, H, W), or (P, H', W') padded like the logits.
    padding
        Rows above and columns left of the panel in the logits: (0, 0) where the padding is at the
        bottom and on the right, half of it where it is centred.
    original_shape
        Panel without padding (…, H, W); by default what the images have.
    valid
        False on bad pixels, (P, H, W) or (H, W) for all panels.
    connectivity
        8 or 4 neighbours.
    min_pixels
        Smaller components are left out.
    max_num_peak
        Of more peaks the strongest are kept.
    gain
        Image units per photon, for `EventPeaks.snr`.

    Raises
    ------
    LogitsError
        If a shape does not fit, the logits are not float32, or one of them is NaN. NaN pixels of
        the images are no error: they are bad.
    """
    images, frame, shift = _check(logits, images, padding, original_shape)
    top, bottom, left, right = frame
    size = (len(logits), bottom - top, right - left)
    if valid is None:
        good = np.empty((0, *size[1:]), dtype=np.bool_)
    elif valid.dtype == np.bool_ and valid.shape in (size, size[1:]):
        good = np.ascontiguousarray(valid).reshape(-1, *size[1:])
    else:
        raise LogitsError(f"valid must be bool {size}, found {valid.dtype} {valid.shape}.")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, found {connectivity}.")
    if max_num_peak < 1:
        raise ValueError(f"max_num_peak must be at least 1, found {max_num_peak}.")
    find = _compiled() or find_components
    found = find(logits, images, good, frame, shift, connectivity, min_pixels, gain)
    if found.nan:
        panel, ss, fs = np.unravel_index(found.first_nan, (len(logits), *logits.shape[2:]))
        raise LogitsError(
            f"the logits of {found.nan} pixels are NaN, the first on panel {panel} at (ss, fs) = "
            f"({ss}, {fs}): the segmentation failed on this event."
        )

    n_pixels, sums = found.n_pixels, found.sums
    weight_fs, weight_ss, weights, total, maximum, noise, probability = sums.T
    large = n_pixels >= min_pixels
    whole = large & ~found.at_edge
    keep = np.flatnonzero(whole & (total > 0.0))
    order = keep[np.lexsort((weight_fs[keep], weight_ss[keep], found.panel[keep], -total[keep]))]
    order = order[:max_num_peak]
    strong = total[order]

    def kept(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return values.astype(np.float32)

    return EventPeaks(
        fs=kept(weight_fs[order] / weights[order]),
        ss=kept(weight_ss[order] / weights[order]),
        total=kept(strong),
        maximum=kept(maximum[order]),
        snr=kept(strong / np.sqrt(noise[order] + gain * strong)),
        n_pixels=n_pixels[order].astype(np.int32),
        probability=kept(probability[order] / n_pixels[order]),
        panel=found.panel[order].astype(np.int32),
        truncated=len(keep) - len(order),
        in_padding=found.in_padding,
        too_small=len(n_pixels) - int(np.count_nonzero(large)),
        at_edge=int(np.count_nonzero(large & found.at_edge)),
        dark=int(np.count_nonzero(whole)) - len(keep),
        masked_pixels=found.masked_pixels,
    )


def put_on_panels(found: Sequence[Peaks]) -> EventPeaks:
    """Make peaks of one event of those that were found on each panel of a stack by itself."""
    panel = np.repeat(np.arange(len(found), dtype=np.int32), [len(peaks) for peaks in found])
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(peaks, field.name) for peaks in found])
        for field in fields(Peaks)
    }
    order = np.argsort(-columns["total"], kind="stable")
    return EventPeaks(**columns, panel=panel).take(order)


def _check(
    logits: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    padding: tuple[int, int],
    original_shape: tuple[int, ...] | None,
) -> tuple[npt.NDArray[Any], Frame, tuple[int, int]]:
    """Return the images, the panel within the logits, and the way from there to the images."""
    if logits.ndim != 4 or logits.shape[1] != 2 or logits.dtype != np.float32:
        raise LogitsError(
            f"logits must be float32 (panels, 2, ss, fs), found {logits.dtype} {logits.shape}."
        )
    panels, _, height, width = logits.shape
    if images.ndim != 3 or len(images) != panels or images.dtype.kind not in "iuf":
        raise LogitsError(
            f"images for logits {logits.shape} must be numbers ({panels}, ss, fs), found "
            f"{images.dtype} {images.shape}."
        )
    if not images.dtype.isnative or images.dtype.char in "eg":
        images = images.astype(np.float64)
    top, left = padding
    padded = images.shape[1:] == (height, width)
    if padded and padding != (0, 0) and original_shape is None:
        raise LogitsError(
            f"images of {(height, width)} pixels are padded like the logits, from {padding} on: "
            f"give original_shape."
        )
    if original_shape is not None:
        bottom, right = top + original_shape[-2], left + original_shape[-1]
    elif padded:
        bottom, right = height, width
    else:
        bottom, right = top + images.shape[1], left + images.shape[2]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise LogitsError(
            f"a panel of {(bottom - top, right - left)} pixels at {padding} does not fit into "
            f"logits of {(height, width)}."
        )
    if not padded and images.shape[1:] != (bottom - top, right - left):
        raise LogitsError(
            f"images for panels of {(bottom - top, right - left)} pixels in logits of "
            f"{(height, width)} must have one of these shapes, found {images.shape[1:]}."
        )
    return images, (top, bottom, left, right), (0, 0) if padded else (-top, -left)


_scratch = threading.local()


@cache
def _compiled() -> Any:
    """Return the compiled way, None without numba."""
    if not numba_works():
        return None
    from beamline.crystallography import _peak_kernels as kernels

    def find(
        logits: npt.NDArray[np.float32],
        images: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        frame: Frame,
        shift: tuple[int, int],
        connectivity: int,
        min_pixels: int,
        gain: float,
    ) -> Components:
        # One signature for arrays of our own and for those that Ray shares: one compilation.
        logits, images, valid = logits.view(), images.view(), valid.view()
        for array in (logits, images, valid):
            array.setflags(write=False)
        rows = np.empty(logits.shape[0] * logits.shape[2] + 1, np.int32)
        info = np.zeros(6, np.int64)
        reach = 1 if connectivity == 8 else 0
        while True:
            size = getattr(_scratch, "size", 4096)
            if not hasattr(_scratch, "runs") or len(_scratch.runs) < size:
                _scratch.runs = np.empty((size, 4), np.int32)
                _scratch.parent, _scratch.component = np.empty((2, size), np.int32)
            runs, component = _scratch.runs, _scratch.component
            if kernels.label(
                logits,
                images,
                valid,
                frame,
                shift,
                reach,
                runs,
                _scratch.parent,
                component,
                rows,
                info,
            ):
                break
            _scratch.size = 4 * size
        number = int(info[kernels.N_COMPONENTS])
        whole, sums = np.zeros((number, 3), np.int64), np.zeros((number, 7))
        kernels.measure(
            logits,
            images,
            valid,
            frame,
            shift,
            runs,
            component,
            rows,
            info[kernels.N_RUNS],
            min_pixels,
            float(gain),
            HALF_WINDOW,
            CLIP,
            whole,
            sums,
        )
        return Components(
            panel=whole[:, 0],
            n_pixels=whole[:, 1],
            at_edge=whole[:, 2] > 0,
            sums=sums,
            in_padding=int(info[kernels.IN_PADDING]),
            masked_pixels=int(info[kernels.MASKED]),
            nan=int(info[kernels.NAN]),
            first_nan=int(info[kernels.FIRST_NAN]),
        )

    return find
