"""The kinds of node of which a NeXus file is made, and the mapping that holds them.

A tree is flat: absolute path → node. Parents come before children, and the target of a link before
the link, so that a file can be written in the order of the mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beamline.nexus.grid import GridOrder

__all__ = [
    "Attribute",
    "Column",
    "ExternalLink",
    "Feed",
    "Field",
    "FrameRange",
    "Grid",
    "GridAxis",
    "Group",
    "Link",
    "Node",
    "Tree",
    "Virtual",
]

#: Text, a number, or a list of either.
Attribute = str | int | float | list[str] | list[int] | list[float]

_NO_ATTRIBUTES: Mapping[str, Attribute] = {}


@dataclass(frozen=True, slots=True)
class Group:
    """A group, of class "" if it has none; where it exists already, its attributes are added."""

    nx_class: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """A dataset that is written once: text, bool, a number, or an array of them."""

    value: Any
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """A hard link to a node of the same file, which gets ``@target`` and the attributes."""

    target: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExternalLink:
    """A link to a dataset of another file; the file is named by its absolute path."""

    file: str
    dataset: str


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Rows `start` to `stop` (None: all) of a dataset of another file."""

    file: str
    dataset: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Virtual:
    """One dataset made of rows of others, in the place of links to them.

    Attributes
    ----------
    sources
        In the order of the rows.
    places
        Further paths that lead to it.
    """

    sources: tuple[FrameRange, ...]
    places: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Feed:
    """Where the rows of a column come from.

    Attributes
    ----------
    kind
        ``data`` and ``timestamps``: the value of data key `key` and its time stamp; ``time`` and
        ``seq_num``: of the event. Times are seconds since the start of the run; ``clock`` is the
        time stamp as the documents have it, in seconds since 1970.
    function
        For ``derived``: makes the rows from those of the data keys `inputs`, each (N,) float64.
    """

    kind: Literal["data", "timestamps", "clock", "time", "seq_num", "derived"]
    key: str = ""
    inputs: tuple[str, ...] = ()
    function: Callable[..., npt.NDArray[np.float64]] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A dataset that grows by one row per event of a stream.

    Attributes
    ----------
    stream
        Name of the stream.
    feed
        What the rows are.
    dtype
        Type of the elements; None is text.
    shape
        Shape of one row; None for rows of differing length (each 1-D).
    """

    stream: str
    feed: Feed
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grid:
    """A dataset of fixed shape (float64, NaN at first) that is filled as points are visited."""

    stream: str
    key: str
    order: GridOrder
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GridAxis:
    """Nominal positions of one axis of a grid.

    Attributes
    ----------
    values
        (n,) float64 positions.
    moved_by
        Data key whose first reading says by how much all positions are moved, for a scan relative
        to where the motor was; empty for absolute positions.
    """

    stream: str
    values: npt.NDArray[np.float64]
    order: GridOrder
    dimension: int
    moved_by: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


Node = Group | Field | Link | ExternalLink | Virtual | Column | Grid | GridAxis

#: Absolute path → node, in the order of writing.
Tree = dict[str, Node]
