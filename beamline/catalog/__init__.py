"""The catalogue: databroker 2 / tiled over SQLite, in this process, with no server and no socket.

Runs get into it from the journal, by a process of its own (`CatalogFeed`) or all at once
(`sync_catalog`, ``beamline catalog sync``), so that no scan ever waits for it. It can be deleted at
any time: everything in it is made from the journal.

.. mermaid::

    flowchart LR
        RE[RunEngine] --> journal[(journal)]
        journal -- follows --> feed[CatalogFeed process]
        feed --> catalog[(catalog/)]
        catalog --> client["open_catalog(data_dir)"]

tiled and databroker are imported by `open_catalog` and by the feeding process only.
"""

from beamline.catalog._client import open_catalog
from beamline.catalog._error import CatalogError, UnreachableError
from beamline.catalog._feed import CatalogFeed
from beamline.catalog._search import moment, search_runs
from beamline.catalog._sync import SyncResult, sync_catalog

__all__ = [
    "CatalogError",
    "CatalogFeed",
    "SyncResult",
    "UnreachableError",
    "moment",
    "open_catalog",
    "search_runs",
    "sync_catalog",
]
