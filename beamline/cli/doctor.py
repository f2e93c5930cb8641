"""``beamline doctor``: whether everything is in place, and what the settings are."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import click

from beamline.cli import options

_PACKAGES = (
    *("bluesky", "ophyd", "event-model", "databroker", "tiled", "bluesky-tiled-plugins"),
    *("caproto", "pyepics", "h5py", "numpy", "scipy", "xraydb", "matplotlib"),
)
_OK, _WARN, _BAD = "✓", "!", "✗"


@click.command(name="doctor")
@options.config
@options.data_dir
def command(config_path: Path | None, data_dir: Path | None) -> None:
    """Check the installation, ports and folders, and show every setting with its source key.

    Exit status 1 if something would keep the beamline from running.
    """
    from beamline.core.config import Settings, load_settings

    settings = load_settings(config_path, data_dir=data_dir)
    results = list(_checks(settings.data_dir, settings.device_port, settings.ioc_port))
    for mark, text in results:
        click.echo(f"{mark} {text}")
    click.echo("\nSettings (a YAML file, then BEAMLINE_<KEY>, then options of the commands):")
    for key, field in Settings.model_fields.items():
        click.echo(f"  {key:<20} {getattr(settings, key)!s:<28} {field.description or ''}")
    if any(mark == _BAD for mark, _ in results):
        raise SystemExit(1)


def _checks(data_dir: Path, device_port: int, ioc_port: int) -> Iterator[tuple[str, str]]:
    from beamline.core.errors import ProcessError
    from beamline.core.shadowing import shadowed_packages
    from ioc.simulator import device_server_binary

    yield _OK, f"Python {platform.python_version()} on {platform.platform()}"
    for name in _PACKAGES:
        try:
            yield _OK, f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield _BAD, f"{name} is not installed: install beamline-dataflow again."
    shadowed = shadowed_packages()
    for name, origin in shadowed.items():
        yield _BAD, f"the package {name!r} is hidden by {origin}: rename that file."
    for name in ("beamline", "devices", "callbacks", "ioc"):
        for path in (Path.cwd() / f"{name}.py", Path.cwd() / name / "__init__.py"):
            if path.exists() and name not in shadowed and not _is_ours(path):
                yield (
                    _WARN,
                    f"{path} will hide the package {name!r} from scripts that are started here: "
                    "rename it.",
                )
    try:
        yield _OK, f"device server {device_server_binary()}"
    except ProcessError as error:
        yield _BAD, str(error)
    for port, what in ((device_port, "device server"), (ioc_port, "IOC")):
        free = port == 0 or _is_free(port)
        yield (
            (_OK, f"port {port} ({what}) is free")
            if free
            else (_WARN, f"port {port} ({what}) is in use: one may be running already.")
        )
    yield _folder(data_dir.resolve())
    epics = {key: value for key, value in os.environ.items() if key.startswith("EPICS_CA")}
    yield _OK, "EPICS: " + (" ".join(f"{k}={v}" for k, v in sorted(epics.items())) or "defaults")


def _is_ours(path: Path) -> bool:
    import beamline

    return path.resolve().is_relative_to(Path(beamline.__file__).resolve().parents[1])


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _folder(path: Path) -> tuple[str, str]:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return _BAD, f"data directory {path} is not writable: choose another with --data-dir."
    free = shutil.disk_usage(existing).free / 1e9
    return (_OK if free > 1 else _WARN), f"data directory {path} ({free:.1f} GB free)"
