"""Draw the default plot of files in h5web and silx; fail where one shows an error or no data.

``python draw.py FILES OUTPUT``, in an environment with silx, PySide6 and h5grove, beside the npm
packages of ``package.json``. `FILES` is a folder of NeXus files; the pictures go to `OUTPUT`.
h5web runs in a headless Chromium (``CHROMIUM`` names its program), on what h5grove serves of the
files, frames in other files included.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from flask import Flask, send_from_directory
from h5grove.flask_utils import BLUEPRINT
from matplotlib.image import imread
from werkzeug.serving import make_server

HERE = Path(__file__).parent
#: Curves and images have a colour, axes and grids are grey. Part of the plot's area.
LEAST_COLOURED = 0.0005
COLOURFUL = 0.15


def coloured(picture: Path, box: tuple[int, int, int, int] | None = None) -> float:
    """Part of a picture (or of left, top, width, height in it) that is neither grey nor white."""
    pixels = imread(picture)[..., :3]
    if box is not None:
        left, top, width, height = box
        pixels = pixels[top : top + height, left : left + width]
    return float(np.mean(np.ptp(pixels, axis=-1) > COLOURFUL))


def in_h5web(files: list[Path], output: Path) -> list[str]:
    """Take screenshots of h5web; return what is wrong with them."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None:
        return ["no Chromium was found: install it, or set CHROMIUM to its program"]
    app = Flask(__name__)
    app.url_map.strict_slashes = False  # h5web asks for /meta/, h5grove has /meta
    app.config["H5_BASE_DIR"] = str(files[0].parent)
    app.register_blueprint(BLUEPRINT)
    app.add_url_rule("/page.<ending>", "page", lambda ending: page(ending))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            ["node", HERE / "shoot.mjs", f"http://127.0.0.1:{server.server_port}", output]
            + [file.name for file in files],
            env={**os.environ, "CHROMIUM": browser}, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
    shots = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [f"h5web: node ended with status {done.returncode}"] if done.returncode else []
    for shot in shots:
        name, box = shot["name"], shot["plot"]
        faults += [f"h5web, {name}: {error}" for error in shot["errors"]]
        said = [line for line in shot["text"].splitlines() if "rror" in line or "nable" in line]
        faults += [f"h5web, {name}: the page says {line!r}" for line in said]
        if box is None:
            continue
        area = tuple(int(box[key]) for key in ("x", "y", "width", "height"))
        part = coloured(output / f"h5web_{Path(name).stem}.png", area)
        print(f"h5web {name}: {part:.2%} of the plot is coloured")
        if part < LEAST_COLOURED:
            faults.append(f"h5web, {name}: the plot is empty")
    missing = {file.name for file in files} - {shot["name"] for shot in shots}
    return faults + [f"h5web, {name}: no screenshot" for name in sorted(missing)]


def page(ending: str) -> object:
    """Serve the page and its program."""
    return send_from_directory(HERE, f"page.{ending}")


def in_silx(files: list[Path], output: Path) -> list[str]:
    """Draw in silx' viewer, offscreen; return what is wrong."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import silx.io
    from silx.gui import qt
    from silx.gui.data.DataViewer import DataViewer
    from silx.gui.plot import PlotWidget
    from silx.io.nxdata import get_default

    def plots(viewer: DataViewer) -> list[PlotWidget]:
        return [widget for widget in viewer.findChildren(PlotWidget) if widget.isVisible()]

    def plot_area(widget: PlotWidget, viewer: DataViewer) -> tuple[int, int, int, int]:
        left, top, width, height = widget.getPlotBoundsInPixels()
        corner = widget.getWidgetHandle().mapTo(viewer, qt.QPoint(int(left), int(top)))
        return corner.x(), corner.y(), int(width), int(height)

    app = qt.QApplication.instance() or qt.QApplication([])
    faults = []
    for file in files:
        with silx.io.open(str(file)) as opened:
            default = get_default(opened)
            if default is None or default.issues:
                said = "none found" if default is None else "; ".join(default.issues)
                faults.append(f"silx, {file.name}: default plot: {said}")
                continue
            viewer = DataViewer()
            viewer.resize(640, 400)
            viewer.setData(opened)
            viewer.show()
            for _ in range(20):
                app.processEvents()
            picture = output / f"silx_{file.stem}.png"
            viewer.grab().save(str(picture))
            view = viewer.displayedView().label()
            part = max((coloured(picture, plot_area(w, viewer)) for w in plots(viewer)), default=0)
            print(f"silx {file.name}: {view}, {part:.2%} of the plot is coloured")
            if part < LEAST_COLOURED:
                faults.append(f"silx, {file.name}: the plot is empty (view {view!r})")
            viewer.close()
            viewer.clear()
    return faults


def main() -> int:
    """Draw all files."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2]).absolute()
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*.nxs"))
    faults = [*in_silx(files, output), *in_h5web(files, output)]
    for fault in faults or ([] if files else ["no files were found"]):
        print(f"FAULT {fault}")
    return bool(faults) or not files


if __name__ == "__main__":
    sys.exit(main())
