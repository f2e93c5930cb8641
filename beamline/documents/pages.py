"""What the rows of an event page say that the page itself does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["times_of_rows"]


def times_of_rows(page: Mapping[str, Any]) -> Sequence[float]:
    """When the events of a page took place.

    bluesky gives all events of a flyer's page the time at which it was collected; the values' time
    stamps tell more.
    """
    times: Sequence[float] = page["time"]
    if len(times) < 2 or times[0] != times[-1] or not page["timestamps"]:
        return times
    stamps = [np.asarray(given, dtype=np.float64) for given in page["timestamps"].values()]
    return np.max(stamps, axis=0).tolist()
