"""The module of g2 averaged over several measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beamline.xpcs.kernel import FilePath, KernelError, ViewerKernel
from beamline.xpcs.modules._shown import Curves

__all__ = ["compute"]


def compute(kernel: ViewerKernel, paths: Sequence[FilePath] = ()) -> Curves:
    """Return the mean of g2 of the data at hand and of the results at `paths`, weighted by errors.

    Raises
    ------
    KernelError
        If bins or delays differ.
    """
    first = kernel.g2
    data = [first, *(kernel.facade.read_g2_data(path) for path in paths)]
    for path, other in zip(paths, data[1:], strict=True):
        if other.g2.shape != first.g2.shape or not np.allclose(
            other.delay_times, first.delay_times, rtol=1e-6
        ):
            raise KernelError(
                f"{path}: its g2 of shape {other.g2.shape} has other bins or delays than the first"
                f" of shape {first.g2.shape}; only equal ones can be averaged."
            )
    values = np.stack([one.g2 for one in data])
    errors = np.stack([one.g2_err for one in data])
    usable = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    weights = np.where(usable, 1.0 / np.square(np.where(usable, errors, 1.0)), 0.0)
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(usable, weights * np.where(usable, values, 0.0), 0.0).sum(axis=0) / total
        error = 1.0 / np.sqrt(total)
    labels = tuple(f"q = {q:.4g} 1/nm, {len(data)} measurements" for q in first.q_values)
    return Curves(first.delay_times, mean, labels, "delay (s)", "g2",
                  np.where(total > 0, error, np.nan), (True, False))  # fmt: skip
