"""One image at a time from the frame writer to the IOC, through memory that both see.

The IOC asks and the writer answers with its newest frame, so nothing is ever written over an image
that is being read, and the rate is the IOC's choice.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

from ioc.frames import DENSE, FrameHeader

__all__ = ["MAX_SIDE", "ImageMemory", "picture"]

#: Images are binned until neither side is longer (pixels).
MAX_SIDE = 512

Image = npt.NDArray[np.float32]


class ImageMemory:
    """Memory for one image.

    Parameters
    ----------
    descriptor
        Of the same memory in another process; None makes new memory.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        size = 4 * MAX_SIDE * MAX_SIDE
        if descriptor is None:
            if hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("image")
            else:
                with tempfile.TemporaryFile() as file:
                    descriptor = os.dup(file.fileno())
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, size)

    def store(self, image: Image) -> None:
        """Put an image in."""
        data = np.ascontiguousarray(image, dtype=np.float32)
        self._map[: data.nbytes] = data.tobytes()

    def load(self, shape: tuple[int, int]) -> Image:
        """Take a copy of the image out."""
        count = shape[0] * shape[1]
        return np.frombuffer(self._map[: 4 * count], dtype=np.float32).reshape(shape)

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()
        os.close(self.descriptor)


def picture(header: FrameHeader, payload: bytes | bytearray) -> Image:
    """Make one image of a frame: panels below each other, pixels added up to bins.

    Returns
    -------
    Image
        Photons per bin, of at most `MAX_SIDE` by `MAX_SIDE`; their sum is that of the frame.
    """
    width = header.shape[-1]
    height = int(np.prod(header.shape[:-1]))
    step = -(-max(height, width) // MAX_SIDE)
    rows, columns = -(-height // step), -(-width // step)
    if header.dtype != DENSE:
        row, column = np.divmod(np.frombuffer(payload, dtype="<u4"), width)
        bins = (row // step).astype(np.intp) * columns + column // step
        counts = np.bincount(bins, minlength=rows * columns)
        return counts.reshape(rows, columns).astype(np.float32)
    frame = np.frombuffer(payload, dtype="<u2").reshape(height, width)
    image = np.zeros((rows, columns), dtype=np.float32)
    for y in range(step):
        for x in range(step):
            part = frame[y::step, x::step]
            image[: part.shape[0], : part.shape[1]] += part
    return image
