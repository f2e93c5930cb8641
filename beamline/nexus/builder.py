"""The growing tree of one run: what is in it already, and what a document adds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from beamline.nexus.keys import DataKey
from beamline.nexus.metadata import COLLECTION, ENTRY, iso_time
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.roles import Options
from beamline.nexus.tree import Attribute, Column, Feed, Field, Group, Link, Node, Tree

__all__ = ["Builder", "Stream"]

_log = logging.getLogger(__name__)


class Stream:
    """One stream of a run.

    Attributes
    ----------
    name
        As in the documents.
    keys
        Its data keys, in the order of the descriptor.
    hinted
        Data keys that its devices want plotted, detectors first.
    path
        Group of the stream in the collection of documents.
    configuration
        That of its devices, as the first descriptor has it.
    """

    def __init__(
        self,
        name: str,
        keys: dict[str, DataKey],
        hinted: list[str],
        path: str,
        configuration: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.keys: dict[str, DataKey] = {}
        self.hinted = hinted
        self.path = path
        self.configuration = configuration
        self._log_names: dict[str, str] = {}
        self.extend(keys)

    def extend(self, keys: Mapping[str, DataKey]) -> None:
        """Add the data keys that are not known yet."""
        used = {"seq_num", "time", "configuration", *self._log_names.values()}
        for name, key in keys.items():
            if name not in self.keys:
                self.keys[name] = key
                self._log_names[name] = unused_name(nexus_name(name), used)
                used.add(self._log_names[name])

    def log_name(self, key: str) -> str:
        """Name of the group in which a data key is logged."""
        return self._log_names[key]


class Builder:
    """Collects nodes, and knows where each data key of each stream is stored.

    The column of a data key stands at the place where it is put first; every later place is a link
    to it.

    Attributes
    ----------
    start
        The start document.
    options
        What ``start["nexus"]`` asks for.
    tree
        All nodes so far.
    detectors : dict[tuple[str, str], str]
        Group of each detector, by stream and data key.
    """

    def __init__(self, start: Mapping[str, Any], options: Options) -> None:
        self.start = start
        self.options = options
        self.tree: Tree = {}
        self.detectors: dict[tuple[str, str], str] = {}
        self._fresh: Tree = {}
        self._homes: dict[tuple[str, str], str] = {}
        self._began = iso_time(start["time"])

    def take(self) -> Tree:
        """Return the nodes that were added since the last time."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    def add(self, path: str, node: Node) -> None:
        """Add a node; a group that exists gets the attributes."""
        known = self.tree.get(path)
        if isinstance(node, Group) and isinstance(known, Group):
            node = Group(node.nx_class, {**known.attributes, **node.attributes})
        self.tree[path] = node
        self._fresh[path] = node

    def decline(self, definition: str, why: str, *missing: str) -> None:
        """Say in the log that the run does not follow a definition, and what it lacks."""
        _log.warning(
            "run %s is not written as %s: %s %s; name what there is in the start document, "
            "nexus={'roles': {...}, 'geometry': {...}}.",
            self.start["uid"], definition, why, ", ".join(missing),
        )  # fmt: skip

    @property
    def title(self) -> str:
        """Title of the entry."""
        title = self.tree[f"{ENTRY}/title"]
        return str(title.value) if isinstance(title, Field) else ""

    def add_all(self, tree: Tree) -> None:
        """Add many."""
        self.tree.update(tree)
        self._fresh.update(tree)

    def group(self, path: str, nx_class: str, **attributes: Attribute) -> str:
        """Add a group unless it is there; return its path."""
        if path not in self.tree or attributes:
            self.add(path, Group(nx_class, attributes))
        return path

    def field(self, path: str, value: Any, **attributes: Attribute) -> None:
        """Add a constant unless something is there."""
        if path not in self.tree:
            self.add(path, Field(value, attributes))

    def link(self, path: str, target: str) -> None:
        """Add a hard link unless something is there."""
        if path not in self.tree:
            self.add(path, Link(target))

    def free(self, parent: str, name: str) -> str:
        """Path in `parent` for something called `name` that is not taken yet."""
        taken = _Taken(parent, self.tree)
        return f"{parent}/{unused_name(nexus_name(name), taken)}"

    def home(self, stream: Stream, key: str) -> str:
        """Path of the column of a data key; placed in the stream's log if it has none yet."""
        home = self._homes.get((stream.name, key))
        if home is None:
            home = f"{self.log(stream, key)}/value"
            self.value(home, stream, key)
        return home

    def has_home(self, stream: Stream, key: str) -> bool:
        """Whether the data key has been placed."""
        return (stream.name, key) in self._homes

    def value(
        self, path: str, stream: Stream, key: str, *, kind: Literal["", "f", "i"] = ""
    ) -> None:
        """Put the values of a data key at a path, unless something is there.

        Parameters
        ----------
        kind
            "f" or "i" for places that NeXus wants to be floating point or integer, whatever the
            data key says.
        """
        if path in self.tree:
            return
        home = self._homes.get((stream.name, key))
        if home is not None:
            self.add(path, Link(home))
            return
        described = stream.keys[key]
        dtype, shape = described.dtype, described.shape
        if described.external:
            # The events hold the name of a datum.
            dtype, shape = None, ()
        if kind and dtype is not None and kind not in (dtype.kind, {"u": "i"}.get(dtype.kind)):
            dtype = np.dtype(np.float64 if kind == "f" else np.int64)
        attributes: dict[str, Attribute] = {}
        if described.units is not None:
            attributes["units"] = clean_text(described.units)
        if nexus_name(key) != key:
            attributes["original_name"] = clean_text(key)
        feed = Feed("data", key)
        self.add(path, Column(stream.name, feed, dtype, shape, attributes))
        self._homes[stream.name, key] = path

    def log(self, stream: Stream, key: str) -> str:
        """Group of a data key in its stream, with the time stamps; added at first use."""
        name = stream.log_name(key)
        path = f"{stream.path}/{name}"
        if path not in self.tree:
            described = stream.keys[key]
            attributes: dict[str, Attribute] = (
                {} if name == key else {"original_name": clean_text(key)}
            )
            is_log = described.dtype is not None and not described.external
            self.add(path, Group("NXlog" if is_log else "NXcollection", attributes))
            if described.external != "stream":
                self.times(f"{path}/time", stream, Feed("timestamps", key))
        return path

    def times(self, path: str, stream: Stream, feed: Feed) -> None:
        """Put a column of times (s since the start of the run) at a path."""
        attributes: dict[str, Attribute] = {"units": "s", "start": self._began}
        self.add(path, Column(stream.name, feed, np.dtype(np.float64), (), attributes))

    def make_stream(
        self,
        name: str,
        keys: dict[str, DataKey],
        hinted: list[str],
        configuration: Mapping[str, Any],
    ) -> Stream:
        """Add the group of a stream, with number and time of its events."""
        path = self.free(f"{COLLECTION}/streams", name)
        original: dict[str, Attribute] = {}
        if path.rpartition("/")[2] != name:
            original["original_name"] = clean_text(name)
        stream = Stream(name, keys, hinted, path, configuration)
        self.add(path, Group("NXcollection", original))
        feed, dtype = Feed("seq_num"), np.dtype(np.int64)
        self.add(f"{path}/seq_num", Column(name, feed, dtype, (), {}))
        self.times(f"{path}/time", stream, Feed("time"))
        return stream


class _Taken:
    """The names in a group, as a container."""

    def __init__(self, parent: str, tree: Tree) -> None:
        self._parent = parent
        self._tree = tree

    def __contains__(self, name: object) -> bool:
        return f"{self._parent}/{name}" in self._tree
