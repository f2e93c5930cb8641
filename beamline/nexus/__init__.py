"""NeXus files as a description: documents in, groups, fields, columns and links out.

Nothing here opens an HDF5 file (`beamline.nexus.compare` reads two). A `RunTree` takes the
documents of one run and returns, for each, the nodes that it adds to the file, as a mapping from
absolute path to node; ``callbacks.nexus`` makes them real.

.. mermaid::

    flowchart LR
        start & descriptor & resource & stop --> RunTree
        RunTree -- "path → Group, Field, Link, ExternalLink, Column, Grid" --> file["HDF5 file"]
        events -- rows --> columns["Columns and Grids"] --> file
"""

from beamline.nexus.run import RunTree
from beamline.nexus.tree import (
    Column,
    ExternalLink,
    Feed,
    Field,
    Grid,
    GridAxis,
    Group,
    Link,
    Node,
    Tree,
)

__all__ = [
    "Column",
    "ExternalLink",
    "Feed",
    "Field",
    "Grid",
    "GridAxis",
    "Group",
    "Link",
    "Node",
    "RunTree",
    "Tree",
]
