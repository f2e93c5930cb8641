"""Mask editor and viewer for XPCS, with Qt: the extra ``gui`` (PySide6 and pyqtgraph).

Nothing is computed here: masks, bins and correlation functions are those of `beamline.xpcs`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SimpleMaskWindow", "XPCSViewer"]


def __getattr__(name: str) -> Any:
    if name == "SimpleMaskWindow":
        from beamline.gui.simplemask import SimpleMaskWindow

        return SimpleMaskWindow
    if name == "XPCSViewer":
        from beamline.gui.viewer import XPCSViewer

        return XPCSViewer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
