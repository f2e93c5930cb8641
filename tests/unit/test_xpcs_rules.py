"""What keeps XPCS data behind one door: who may open files, and who may convert arrays."""

import ast
from pathlib import Path

import pytest

import beamline.xpcs

PACKAGE = Path(beamline.xpcs.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
OPENERS = {"hdf5_facade.py", "_facade_pool.py", "_facade_writing.py"}
CONVERTERS = {"adapters.py"}
#: Calls that turn an array of any library into one of NumPy.
CONVERSIONS = {"asarray", "asanyarray", "device_get", "from_dlpack", "ensure_numpy"}


def findings(source: str, *, opener: bool, converter: bool) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if not converter and any(name.split(".")[0] == "jax" for name in modules):
                found.append(f"line {node.lineno}: imports jax")
            if not opener and getattr(node, "module", "") == "h5py" and "File" in modules:
                found.append(f"line {node.lineno}: imports h5py.File")
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if not opener and owner == "h5py" and node.attr in ("File", "h5f"):
            found.append(f"line {node.lineno}: h5py.{node.attr}")
        if not converter and node.attr in CONVERSIONS:
            found.append(f"line {node.lineno}: {node.attr}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_files_are_opened_by_the_facade_and_arrays_converted_by_the_adapters(path):
    found = findings(
        path.read_text(), opener=path.name in OPENERS, converter=path.name in CONVERTERS
    )
    assert found == [], (
        f"{path.name}: read and write files through beamline.xpcs.hdf5_facade, and convert arrays"
        f" with beamline.xpcs.adapters.host_array: {found}"
    )


@pytest.mark.parametrize(
    "source",
    ["import h5py\nh5py.File('x')", "from h5py import File", "import numpy as np\nnp.asarray(x)",
     "import jax.numpy as jnp", "from jax import device_get", "import h5py\nh5py.h5f.open(x)"],
)  # fmt: skip
def test_the_rule_finds(source):
    assert findings(source, opener=False, converter=False)
    assert findings(source, opener=True, converter=True) == []
