"""An editor of masks and bins, in which the ideas of pySimpleMask live on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QDockWidget,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QMainWindow,
    QMessageBox,
    QPushButton,
    QSpinBox,
    QWidget,
)

from beamline.core.errors import BeamlineError
from beamline.xpcs import masks
from beamline.xpcs.adapters import PyQtGraphAdapter, host_array
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.kernel import KernelError
from beamline.xpcs.partitions import QPartition, make_partition
from beamline.xpcs.schemas import GeometryMetadata, MaskSchema

__all__ = ["SimpleMaskWindow"]

#: Field of the geometry → label, decimals, least and greatest value.
_GEOMETRY: dict[str, tuple[str, int, float, float]] = {
    "bcx": ("Beam centre, column (px)", 3, -1e5, 1e5),
    "bcy": ("Beam centre, row (px)", 3, -1e5, 1e5),
    "det_dist": ("Distance (mm)", 3, 1e-3, 1e7),
    "lambda_": ("Wavelength (Å)", 5, 1e-4, 1e3),
    "pix_dim": ("Pixel (mm)", 5, 1e-5, 1e2),
}
_COUNTS = {
    "n_static": ("Static bins of q", 100),
    "n_dynamic": ("Dynamic bins of q", 10),
    "n_static_phi": ("Static bins of φ", 1),
    "n_dynamic_phi": ("Dynamic bins of φ", 1),
}


class SimpleMaskWindow(QMainWindow):
    """Masks pixels of an image and sorts the others into bins.

    Signals
    -------
    mask_exported
        np.ndarray int32 (H, W), 1 = valid.
    qmap_exported
        dict of a `PartitionSchema` (dynamic bins).
    """

    mask_exported = Signal(np.ndarray)
    qmap_exported = Signal(dict)

    def __init__(self, parent: QWidget | None = None, facade: HDF5Facade | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Mask and bins")
        self.facade = HDF5Facade() if facade is None else facade
        self.partition: QPartition | None = None
        self._image: npt.NDArray[Any] | None = None
        self._mask: npt.NDArray[np.int32] | None = None
        self._history: list[npt.NDArray[np.int32]] = []
        self._adapter = PyQtGraphAdapter()
        self._view = pg.ImageView(view=pg.PlotItem())
        self.setCentralWidget(self._view)
        self._geometry = {name: _number(*rest[1:]) for name, rest in _GEOMETRY.items()}
        for name, value in {"det_dist": 5000.0, "lambda_": 1.5498, "pix_dim": 0.075}.items():
            self._geometry[name].setValue(value)
        self._counts = {name: _count(default) for name, (_, default) in _COUNTS.items()}
        self._radius, self._sigma = _number(1, 0.0, 1e5), _number(1, 0.5, 1e3)
        self._radius.setValue(10.0)
        self._sigma.setValue(8.0)
        self.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self._controls())

    @property
    def mask(self) -> npt.NDArray[np.int32]:
        """(H, W), 1 = valid."""
        if self._mask is None:
            raise KernelError("There is no mask yet; load an image of the detector first.")
        return self._mask

    @property
    def geometry_metadata(self) -> GeometryMetadata:
        """What the fields on the right say."""
        values = {name: field.value() for name, field in self._geometry.items()}
        return GeometryMetadata(**values, shape=self.mask.shape)

    def set_geometry(self, metadata: GeometryMetadata) -> None:
        """Fill the fields on the right."""
        for name, field in self._geometry.items():
            field.setValue(getattr(metadata, name))

    def load_detector_image(
        self, image: npt.NDArray[Any], metadata: GeometryMetadata | None = None
    ) -> None:
        """Take an image (H, W); what is not finite is masked, nothing else.

        Without `metadata`, the beam centre is put into the middle.
        """
        values = host_array(image)
        self._mask = masks.finite(values)
        self._image = values
        self._history.clear()
        self.partition = None
        if metadata is not None:
            self.set_geometry(metadata)
        else:
            self._geometry["bcx"].setValue(0.5 * (values.shape[1] - 1))
            self._geometry["bcy"].setValue(0.5 * (values.shape[0] - 1))
        self._show()

    def apply(self, mask: npt.NDArray[Any]) -> None:
        """Mask the pixels that are 0 in `mask`, too."""
        combined = masks.combine(self.mask, mask)
        self._history.append(self.mask)
        del self._history[:-50]
        self._mask = combined
        self.partition = None
        self._show()

    def undo(self) -> None:
        """Take back the latest change of the mask."""
        if self._history:
            self._mask = self._history.pop()
            self.partition = None
            self._show()

    def mask_beam_stop(self, radius: float | None = None) -> None:
        """Mask a disc around the beam centre."""
        shape = self.mask.shape
        here = self._geometry
        radius = self._radius.value() if radius is None else radius
        self.apply(
            masks.disc((shape[0], shape[1]), here["bcx"].value(), here["bcy"].value(), radius)
        )

    def mask_hot_pixels(self, sigma: float | None = None) -> None:
        """Mask pixels that are far brighter than their neighbours."""
        if self._image is None:
            raise KernelError("Hot pixels need an image of the detector; load one first.")
        self.apply(masks.hot_pixels(self._image, self._sigma.value() if sigma is None else sigma))

    def compute_partition(self, **options: Any) -> QPartition:
        """Sort the valid pixels into bins as the fields, or `options` of `make_partition`, say."""
        counts = {name: field.value() for name, field in self._counts.items()}
        self.partition = make_partition(self.geometry_metadata, self.mask, **{**counts, **options})
        self._show()
        return self.partition

    def export_to_viewer(self) -> None:
        """Emit the mask and, if there are any, the dynamic bins."""
        self.mask_exported.emit(self.mask.copy())
        if self.partition is not None:
            self.qmap_exported.emit(self.partition.schema("dynamic").to_dict())

    def save(self, path: str) -> None:
        """Write the mask and, if there are any, the bins."""
        self.facade.write_mask(path, MaskSchema(self.mask, self.geometry_metadata))
        if self.partition is not None:
            self.facade.write_q_partition(path, self.partition)
            self.facade.write_partition(path, self.partition.schema("dynamic"))

    def _controls(self) -> QDockWidget:
        form = QFormLayout()
        for name, field in self._geometry.items():
            form.addRow(_GEOMETRY[name][0], field)
        form.addRow("Radius of beam stop (px)", self._radius)
        form.addRow(_button("Mask beam stop", self, self.mask_beam_stop))
        form.addRow("Limit of hot pixels (σ)", self._sigma)
        form.addRow(_button("Mask hot pixels", self, self.mask_hot_pixels))
        form.addRow(_button("Undo", self, self.undo))
        for name, count in self._counts.items():
            form.addRow(_COUNTS[name][0], count)
        form.addRow(_button("Make bins", self, self.compute_partition))
        form.addRow(_button("To the viewer", self, self.export_to_viewer))
        form.addRow(_button("Save …", self, self._ask_and_save))
        panel = QWidget()
        panel.setLayout(form)
        dock = QDockWidget("Mask and bins", self)
        dock.setWidget(panel)
        return dock

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save mask and bins", "mask.h5", "*.h5")
        if path:
            self.save(path)

    def _show(self) -> None:
        if self._image is None:
            return
        if self.partition is not None:
            shown = self.partition.dynamic_roi_map.astype(np.float64)
        else:
            positive = self._image[np.isfinite(self._image) & (self._image > 0)]
            least = positive.min() if positive.size else 1.0
            shown = np.log10(np.maximum(np.nan_to_num(self._image, posinf=least), least))
        shown = np.where(self.mask > 0, shown, np.nan)
        self._view.setImage(self._adapter.to_pyqtgraph(shown.T), autoRange=False)


def _number(decimals: int, least: float, greatest: float) -> QDoubleSpinBox:
    field = QDoubleSpinBox()
    field.setDecimals(decimals)
    field.setRange(least, greatest)
    return field


def _count(value: int) -> QSpinBox:
    field = QSpinBox()
    field.setRange(1, 10_000)
    field.setValue(value)
    return field


def _button(text: str, window: QWidget, action: Any) -> QPushButton:
    """Make a button whose errors are shown, since nothing else would take them."""

    def clicked() -> None:
        try:
            action()
        except BeamlineError as error:
            QMessageBox.warning(window, text, str(error))

    button = QPushButton(text)
    button.clicked.connect(clicked)
    return button
