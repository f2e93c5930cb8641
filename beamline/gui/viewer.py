"""A viewer of XPCS data; what is computed is `beamline.xpcs.kernel`'s."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtWidgets import QMainWindow, QTabWidget, QWidget

from beamline.core.errors import BeamlineError
from beamline.gui.simplemask import SimpleMaskWindow
from beamline.xpcs.adapters import PyQtGraphAdapter
from beamline.xpcs.kernel import ViewerKernel
from beamline.xpcs.modules import NAMES, Curves, Picture, get_module

__all__ = ["XPCSViewer"]


class XPCSViewer(QMainWindow):
    """Shows frames or a result, one tab per analysis module.

    Parameters
    ----------
    kernel
        What holds the data; by default an empty one.
    """

    def __init__(self, kernel: ViewerKernel | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("XPCS")
        self.kernel = ViewerKernel() if kernel is None else kernel
        self._adapter = PyQtGraphAdapter(None)
        self._tabs = QTabWidget()
        for name in NAMES:
            self._tabs.addTab(pg.GraphicsLayoutWidget(), name)
        self._tabs.currentChanged.connect(lambda _: self.refresh())
        self.setCentralWidget(self._tabs)

    def connect_editor(self, editor: SimpleMaskWindow) -> None:
        """Take what the mask editor exports."""
        editor.mask_exported.connect(lambda mask: self._reported(self.apply_mask, mask))
        editor.qmap_exported.connect(lambda bins: self._reported(self.apply_qmap, bins))

    def apply_mask(self, mask: npt.NDArray[Any]) -> None:
        """Use only the pixels that are 1 in `mask`; everything is computed and shown anew."""
        self.kernel.apply_mask(mask)
        self.refresh()

    def apply_qmap(self, partition: dict[str, Any]) -> None:
        """Use other bins, a `PartitionSchema` as dict; everything is computed and shown anew."""
        self.kernel.apply_qmap(partition)
        self.refresh()

    @property
    def saxs1d(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Values of q, 1/nm, and mean counts per pixel."""
        return self.kernel.saxs1d

    @property
    def g2(self) -> Any:
        """The correlation functions (`G2Data`)."""
        return self.kernel.g2

    def show_module(self, name: str) -> Curves | Picture:
        """Bring the tab `name` to the front, and return what it shows.

        Raises
        ------
        ImportError
            If there is no such module.
        KernelError
            If it needs data that are not loaded.
        """
        shown: Curves | Picture = get_module(name).compute(self.kernel)
        index = NAMES.index(name)
        self._draw(index, shown)
        self._tabs.blockSignals(True)
        self._tabs.setCurrentIndex(index)
        self._tabs.blockSignals(False)
        self.statusBar().clearMessage()
        return shown

    def refresh(self) -> None:
        """Compute and show the tab in front again; what hinders it stands in the status bar."""
        try:
            self.show_module(NAMES[self._tabs.currentIndex()])
        except BeamlineError as error:
            self._layout(self._tabs.currentIndex()).clear()
            self.statusBar().showMessage(str(error))

    def _reported(self, action: Any, value: Any) -> None:
        # Qt drops what a slot raises, so it is said here.
        try:
            action(value)
        except BeamlineError as error:
            self.statusBar().showMessage(str(error))

    def _layout(self, index: int) -> Any:
        return self._tabs.widget(index)

    def _draw(self, index: int, shown: Curves | Picture) -> None:
        layout = self._layout(index)
        layout.clear()
        plot = layout.addPlot()
        if isinstance(shown, Picture):
            image = pg.ImageItem(self._adapter.to_pyqtgraph(shown.values.T))
            plot.addItem(image)
            plot.setTitle(shown.label)
            return
        plot.addLegend()
        plot.setLabel("bottom", shown.x_label)
        plot.setLabel("left", shown.y_label)
        plot.setLogMode(*shown.logarithmic)
        for number, (label, y) in enumerate(zip(shown.labels, shown.y, strict=True)):
            good = np.isfinite(y) & np.isfinite(shown.x)
            if shown.logarithmic[0]:
                good &= shown.x > 0
            if shown.logarithmic[1]:
                good &= y > 0
            plot.plot(
                self._adapter.to_pyqtgraph(shown.x[good]), self._adapter.to_pyqtgraph(y[good]),
                name=label, pen=pg.intColor(number, hues=max(len(shown.labels), 2)),
                symbol="o", symbolSize=4,
            )  # fmt: skip
