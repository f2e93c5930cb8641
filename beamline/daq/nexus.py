"""NeXus files of scans: the writer of `callbacks.nexus`, where scripts look for it."""

from callbacks.nexus import NeXusWriter

__all__ = ["NeXusWriter"]
