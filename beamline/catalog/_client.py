"""Opening the catalogue: tiled in process over two SQLite files, or a tiled server."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import socket
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from beamline.catalog._error import CatalogError, UnreachableError
from beamline.catalog._ledger import catalog_lock
from beamline.catalog._location import Location
from beamline.core.errors import BeamlineError

__all__ = ["open_catalog", "opened", "unreachable"]

_DATABASE = "catalog.db"
_TABLES = "tables.db"
_ARRAYS = "arrays"
_KNOCK = 5.0  # seconds
#: What a proxy in front of a server answers while the server is down.
_GATEWAY = (502, 503, 504)


def open_catalog(
    data_dir: str | os.PathLike[str],
    *,
    uri: str | None = None,
    readable_storage: Sequence[str | os.PathLike[str]] = ("/",),
) -> Any:
    """Open the catalogue of a data directory; made empty if there is none.

    The first call takes a few seconds (it imports tiled). Runs that arrive later are seen at the
    next question; nothing needs to be reopened.

    Parameters
    ----------
    data_dir
        The catalogue is in ``catalog/`` below it.
    uri
        Address of a tiled server that holds the catalogue instead (setting ``catalog_uri``); its
        key is taken from the environment variable TILED_API_KEY.
    readable_storage
        Directories whose files (detector frames) may be read. All by default: this is a process
        of the user, who can read them anyway. A server has a setting of its own for that.

    Returns
    -------
    bluesky_tiled_plugins.CatalogOfBlueskyRuns
        In order of the runs' start: ``catalog[-1]`` is the latest, ``catalog[12]`` the latest with
        that scan_id, ``catalog["4f1c0d"]`` by uid. ``run.primary.read()`` is an xarray Dataset;
        ``run.documents()`` gives documents equal in content, while the journal gives them exactly;
        ``run.documents(fill=True)`` has the frames of detectors in its events.

    Raises
    ------
    CatalogError
        If the files can't be made, or are damaged or of another version of tiled; if the server
        doesn't answer (`UnreachableError`), refuses us or holds no runs of bluesky.
    """
    location = Location.of(data_dir, uri)
    if location.uri is not None:
        return _ours(_connect_server(location.uri))
    directory = location.directory
    if set("?#") & set(str(directory)):
        raise CatalogError(
            f"cannot use the catalogue in {directory}: tiled takes paths for addresses, which have "
            "no '?' and no '#'; choose another data directory."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / _DATABASE).exists():
            with _import_quietly(), catalog_lock(directory):
                _in_thread(_create_database, directory / _DATABASE)
        client = _connect(directory, readable_storage)
    except BeamlineError:
        raise
    except OSError as error:
        raise CatalogError(f"cannot use the catalogue in {directory}: {error}.") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CatalogError(
            f"cannot open the catalogue in {directory}: {reason[:200]}; it can be made anew from "
            "the journal with 'beamline catalog sync --rebuild'."
        ) from error
    return _ours(client)


def _ours(client: Any) -> Any:
    """Return the catalogue with runs whose documents can be filled, in order of their start."""
    from beamline.catalog._run import Run

    structure_clients = copy.copy(client.structure_clients)
    structure_clients.set("BlueskyRun", lambda: Run)
    catalog = type(client)(client.context, item=client.item, structure_clients=structure_clients)
    # The order of arrival would put a run that was recovered after a crash last.
    return catalog.sort(("start.time", 1))


@contextlib.contextmanager
def opened(data_dir: str | os.PathLike[str], uri: str | None = None) -> Iterator[Any]:
    """Open the catalogue for a while; its threads and files are closed afterwards."""
    client = open_catalog(data_dir, uri=uri)
    try:
        yield client
    finally:
        client.context.close()


def _connect(directory: Path, readable_storage: Sequence[str | os.PathLike[str]]) -> Any:
    with _import_quietly():
        from bluesky_tiled_plugins.exporters import json_seq_exporter
        from tiled.catalog.adapter import from_uri
        from tiled.client import from_context
        from tiled.client.context import Context
        from tiled.media_type_registration import default_serialization_registry
        from tiled.server.app import build_app

        logging.getLogger("tiled.server.app").setLevel(logging.WARNING)
        # Without it run.documents() is answered with "406 Not Acceptable".
        default_serialization_registry.register(
            "BlueskyRun", "application/json-seq", json_seq_exporter
        )
        tree = from_uri(
            _sqlite(directory / _DATABASE),
            # DuckDB, the usual choice for tables, lets one process only have the file open.
            writable_storage=[directory / _ARRAYS, f"sqlite:///{directory / _TABLES}"],
            readable_storage=[str(path) for path in readable_storage],
            specs=[{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
        )
        context = Context.from_app(build_app(tree), show_progress=False)
    return from_context(context)


def _connect_server(uri: str) -> Any:
    _knock(uri)
    with _import_quietly():
        from tiled.client import from_uri

        try:
            client = from_uri(uri, remember_me=False, show_progress=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if unreachable(error):
                raise _silent(uri, reason) from None
            raise CatalogError(
                f"the tiled server of the catalogue, {uri}, refuses us: {reason}; check the "
                "setting catalog_uri and the key in TILED_API_KEY."
            ) from error
    if not any(spec.name == "CatalogOfBlueskyRuns" for spec in client.specs or ()):
        client.context.close()
        raise CatalogError(
            f"{uri} is no catalogue of bluesky runs: give its tree the spec CatalogOfBlueskyRuns, "
            "version 3.0, in the server's configuration (docs/catalogue.md has one)."
        )
    return client


def _knock(uri: str) -> None:
    """Ask whether somebody listens: tiled's client would try for 45 s and import itself first."""
    address = urlsplit(uri)
    host = str(address.hostname)
    if address.scheme in getproxies() and not proxy_bypass(host):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_KNOCK).close()
    except OSError as error:
        raise _silent(uri, error.strerror or str(error)) from None


def _silent(uri: str, reason: str) -> UnreachableError:
    return UnreachableError(
        f"the tiled server of the catalogue, {uri}, does not answer: {reason}; check the setting "
        "catalog_uri and whether the server runs."
    )


def unreachable(error: BaseException) -> bool:
    """Whether it says that the server does not answer, rather than that it refuses."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _GATEWAY
    return isinstance(error, httpx.TransportError)


def _create_database(path: Path) -> None:
    """Make an empty database under another name first: one that is there is whole."""
    if path.exists():  # another process was quicker
        return
    import asyncio

    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import initialize_database

    unfinished = path.with_name(f"{path.name}.part")
    for left in path.parent.glob(f"{unfinished.name}*"):
        left.unlink()
    uri = _sqlite(unfinished)

    async def create() -> None:
        engine = create_async_engine(uri)
        try:
            await initialize_database(engine)
        finally:
            await engine.dispose()

    asyncio.run(create())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)
    # tiled does this for its database only. Without it a reader of a table is told "database is
    # locked" while the feeding process writes one.
    with contextlib.closing(sqlite3.connect(path.with_name(_TABLES))) as tables:
        tables.execute("PRAGMA journal_mode=WAL")
    unfinished.rename(path)


def _in_thread(function: Any, *arguments: Any) -> None:
    """Call where no event loop runs, as one does in a notebook's main thread."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            failures.append(error)

    thread = threading.Thread(target=call, name="catalog-init")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _sqlite(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@contextlib.contextmanager
def _import_quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*httpx.*")
        yield
