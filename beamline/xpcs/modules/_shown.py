"""What is shown: curves, or a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Curves", "Picture"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves over one axis.

    Attributes
    ----------
    x
        (n,) values of the axis.
    y
        (n_curves, n).
    labels
        One per curve.
    x_label, y_label
        With units.
    error
        Shaped like `y`, or None.
    logarithmic
        Which of x and y are shown on a logarithmic scale.
    """

    x: Array
    y: Array
    labels: tuple[str, ...]
    x_label: str
    y_label: str
    error: Array | None = None
    logarithmic: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, eq=False)
class Picture:
    """A map.

    Attributes
    ----------
    values
        (rows, columns); NaN is not shown.
    label
        Of the values.
    """

    values: Array
    label: str
