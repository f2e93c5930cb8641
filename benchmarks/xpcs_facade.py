"""The XPCS facade beside the direct h5py read, the direct conversion and bare NumPy, in one run.

Hit rate over 30 files in a cycle, cached and first reads of q-maps of 512² and 1024², validation
of schemas, memory beyond the arrays and per connection, overhead of the adapters (with a JAX array
if it is installed). Run with ``python benchmarks/xpcs_facade.py``; ends with status 1 if a limit is
missed.
"""

import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from beamline.xpcs.adapters import PyQtGraphAdapter, get_backend
from beamline.xpcs.geometry import q_map, q_values, wavelength
from beamline.xpcs.hdf5_facade import ConnectionPool, HDF5Facade
from beamline.xpcs.partitions import make_partition
from beamline.xpcs.schemas import GeometryMetadata, PartitionSchema, QMapSchema

FILES, ROUNDS = 30, 30
#: Hit rate; ms of a cached read; ms of validation by side; bytes; MB; share; µs.
LEAST_HITS, CACHED_MS, VALID_MS = 0.95, 10.0, {512: 1.0, 1024: 4.0}
BEYOND, PER_CONNECTION, OVERHEAD, NUMPY_US = 1024, 50.0, 0.05, 1.0
MAPS = ("sqmap", "dqmap", "phis", "mask")

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

rows: list[tuple[str, str, str, bool]] = []


def best(work: Callable[[], object], times: int = 15) -> float:
    """Return the least time of several, ms."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return 1e3 * min(found)


def row(what: str, found: str, limit: str, good: bool) -> None:
    rows.append((what, found, limit, good))


def geometry(side: int) -> GeometryMetadata:
    return GeometryMetadata(0.4 * side, 0.45 * side, 5000.0, wavelength(8.0), 0.075, (side, side))


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def direct(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [file[f"/xpcs/qmap/{name}"][()] for name in MAPS]


def reads(folder: Path) -> None:
    for side in (512, 1024):
        path = folder / f"{side}.h5"
        facade = HDF5Facade()
        mask = np.ones((side, side), np.int32)
        facade.write_qmap(path, q_map(geometry(side), mask=mask))
        plain = best(lambda path=path: direct(path), 5)
        first = best(lambda path=path: HDF5Facade().read_qmap(path), 5)
        facade.read_qmap(path)
        cached = best(lambda path=path, facade=facade: facade.read_qmap(path), 200)
        row(f"first read {side}²", f"{first:.1f} ms", f"h5py {plain:.1f} ms", True)
        row(f"cached read {side}²", f"{cached:.4f} ms", f"< {CACHED_MS:g} ms", cached < CACHED_MS)


def cycle(folder: Path) -> None:
    facade = HDF5Facade()
    schema = q_map(geometry(512))
    paths = [folder / f"cycle{number}.h5" for number in range(FILES)]
    for path in paths:
        facade.write_qmap(path, schema)
    facade.clear_pool()
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        for path in paths:
            facade.read_qmap(path)
    spent = 1e3 * (time.perf_counter() - begin) / FILES / ROUNDS
    stats = facade.get_pool_stats()
    row(f"hit rate, {FILES} files in a cycle", f"{stats['hit_rate']:.3f}, {spent:.2f} ms a read",
        f"> {LEAST_HITS}", stats["hit_rate"] > LEAST_HITS)  # fmt: skip
    # Without decoded values, what remains are the open files.
    facade = HDF5Facade(ConnectionPool(cache_bytes=0))
    before = resident()
    for _ in range(3):
        for path in paths:
            facade.read_qmap(path)
    each = (resident() - before) / FILES
    rate = facade.get_pool_stats()["hit_rate"]
    row("memory per connection", f"{each:.2f} MB (hit rate of the files alone {rate:.2f})",
        f"< {PER_CONNECTION:g} MB", each < PER_CONNECTION)  # fmt: skip
    facade.clear_pool()


def validation() -> None:
    for side, limit in VALID_MS.items():
        here = geometry(side)
        q = q_values(here)
        mask = np.ones((side, side), np.int32)
        bins = make_partition(here, mask, n_static=300, n_dynamic=30).schema("static")
        labels = bins.partition_map
        for name, work in (
            ("QMapSchema", lambda q=q, mask=mask: QMapSchema(q, q, q, mask=mask)),
            ("PartitionSchema, counts included", lambda b=bins, mask=mask: PartitionSchema(
                b.partition_map, b.num_pts, b.val_list, b.num_list, mask=mask)),
        ):  # fmt: skip
            found = best(work, 60)
            bare = best(
                (lambda q=q: [np.isfinite(q).all() for _ in range(3)]) if name == "QMapSchema"
                else (lambda labels=labels: np.bincount(labels.ravel())), 60,
            )  # fmt: skip
            row(f"{name} {side}²", f"{found:.3f} ms (bare NumPy {bare:.3f})", f"< {limit:g} ms",
                found < limit)  # fmt: skip
    q, mask = np.ones((512, 512)), np.ones((512, 512), np.int32)
    QMapSchema(q, q, q, mask=mask)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    schema = QMapSchema(q, q, q, mask=mask)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    row("memory beyond the arrays", f"{grown} B", f"< {BEYOND} B", grown < BEYOND and bool(schema))


def conversion() -> None:
    adapter, values = PyQtGraphAdapter(), np.ones((1024, 1024))
    many = 10_000

    def loop() -> None:
        for _ in range(many):
            adapter.to_pyqtgraph(values)

    each = 1e3 * best(loop, 5) / many
    row("adapter, NumPy array", f"{each:.3f} µs", f"< {NUMPY_US:g} µs", each < NUMPY_US)
    backend = get_backend()
    if backend.name != "jax":
        row("adapter, device array", "JAX is not installed", "", True)
        return
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    # Spread over two devices, an array must be gathered: one on the CPU alone is only looked at.
    spread = NamedSharding(Mesh(jax.devices()[:2], ("rows",)), PartitionSpec("rows"))
    base = jax.device_put(np.random.default_rng(0).random((1024, 1024)), spread)
    adapter = PyQtGraphAdapter(backend)
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(200):
        for which in ((0, 1), (1, 0))[turn % 2]:
            # Fresh each time: JAX keeps the host copy of an array once it was made.
            fresh = (base + turn).block_until_ready()
            begin = time.perf_counter()
            if which:
                adapter.to_pyqtgraph(fresh)
            else:
                np.asarray(fresh)
            spent[which].append(time.perf_counter() - begin)
    # Medians: whoever is interrupted once by another program is not slower for it.
    plain, adapted = (1e3 * float(np.median(times)) for times in spent)
    overhead = adapted / plain - 1.0
    row("adapter, JAX array, two devices", f"{adapted:.3f} ms, {100 * overhead:+.1f} % over direct",
        f"< {100 * OVERHEAD:g} %", overhead < OVERHEAD)  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        reads(Path(folder))
        cycle(Path(folder))
    validation()
    conversion()
    for what, found, limit, good in rows:
        print(f"{'ok ' if good else 'BAD'} {what:40s} {found:45s} {limit}")
    return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
