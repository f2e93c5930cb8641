"""The image plugin of the area detector (``image1``): a live image for viewing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from ioc.adcore import DISABLE_ENABLE, NO_YES, add_plugin_records, show_array, show_newest
from ioc.channel import Completion
from ioc.fields import Double, Enum, FloatArray
from ioc.live_image import MAX_SIDE
from ioc.soft import RecordGroup
from ioc.writer_process import WriterProcess

__all__ = ["ImagePlugin"]

#: Shortest time between two images (s): Channel Access is not the way for all frames.
_SHORTEST = 0.05


class ImagePlugin:
    """Records of ``image1``, named as ADCore's NDPluginStdArrays names them.

    The image is asked from the frame writer, at most once per MinCallbackTime, and the writer
    answers with its newest frame; no frame waits for it. Frames larger than 512 pixels are binned
    (photons are added up), panels stand below each other.

    Parameters
    ----------
    prefix
        For example ``BL02:AD1:``.
    writer
        Gives the images.
    """

    def __init__(self, prefix: str, writer: WriterProcess) -> None:
        self.group = RecordGroup(f"{prefix}image1:")
        self._writer = writer
        self._asked = False
        self._shown = -1
        self._timer: asyncio.TimerHandle | None = None
        add_plugin_records(self.group, "Image1", "NDPluginStdArrays")
        self.group.setting(
            "EnableCallbacks", Enum, 1, put=self._put_enable, enum_strings=DISABLE_ENABLE
        )
        self.group.setting("BlockingCallbacks", Enum, 0, enum_strings=NO_YES)
        self.group.setting(
            "MinCallbackTime", Double, 0.2, put=self._put_period, precision=3, units="s"
        )
        self.group.control(
            "ArrayData", FloatArray, np.zeros(1, np.float32), max_length=MAX_SIDE**2,
            read_only=True,
        )  # fmt: skip

    def _put_enable(self, value: int) -> Completion:
        self.group.set("EnableCallbacks", value)
        self._ask()
        return None

    def _put_period(self, value: float) -> Completion:
        self.group.set("MinCallbackTime", max(_SHORTEST, value))
        return None

    def begin(self) -> None:
        """Start anew: the writer has a new connection, on which frames are numbered anew."""
        self._asked = False
        self._shown = -1
        self._ask()

    def _ask(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asked or not self.group.get("EnableCallbacks"):
            return
        self._asked = self._writer.command(op="image", after=self._shown)

    def take(self, details: Mapping[str, Any]) -> None:
        """Show the image that the writer has put into the shared memory."""
        self._asked = False
        group = self.group
        self._shown = details["number"]
        rows, columns = details["shape"]
        image = self._writer.memory.load((rows, columns))
        if group.get("ArraySize0_RBV") != columns or group.get("ArraySize1_RBV") != rows:
            show_array(group, "Float32", (rows, columns), image.nbytes)
        show_newest(group, details["number"], details["time"])
        group.records["ArrayData"].set(image.ravel(), force=True)
        group.set("ArrayCounter", group.get("ArrayCounter") + 1)
        period = group.get("MinCallbackTime")
        self._timer = asyncio.get_running_loop().call_later(period, self._ask)

    def waits_for(self, number: int) -> bool:
        """Whether an acquisition must wait until its last frame, of that number, is shown."""
        if not self.group.get("BlockingCallbacks") or not self.group.get("EnableCallbacks"):
            return False
        if self._shown >= number:
            return False
        self._ask()
        return self._asked
