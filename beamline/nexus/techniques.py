"""The tree of `callbacks.nxsas`: documents as groups, and what the run itself asks for.

.. code-block:: text

    /bluesky/start/…                    the start document
    /bluesky/descriptors/STREAM/…       descriptors
    /bluesky/events/STREAM/data/KEY, timestamps/KEY
    /bluesky/stop/…
    …                                   what ``techniques`` in the start document describe,
                                        or /entry as in `beamline.nexus.run`
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.frames import Frames
from beamline.nexus.metadata import NEXUS_RELEASE, constant, iso_time
from beamline.nexus.names import clean_text, unused_name
from beamline.nexus.run import RunTree
from beamline.nexus.tree import Attribute, Column, ExternalLink, Feed, Field, Group, Link, Tree

__all__ = ["TechniquesTree"]

_log = logging.getLogger(__name__)
_HOME = "/bluesky"
_ATTRIBUTES = ("_attributes", "NXattributes")
_LINK = re.compile(
    r"#bluesky/(?P<what>start|stop|desc|descriptors|events)(?P<path>(/[^/@]+)*)(@(?P<attribute>.+))?"
)
_DEEPEST = 24


class TechniquesTree:
    """The tree of one run, with the methods of `beamline.nexus.run.RunTree`.

    Parameters
    ----------
    start
        The start document. ``techniques``, in ``md`` or by itself, is a list of mappings with
        ``technique``, ``version`` and ``nxsas``, the description of groups; without it the file has
        the ``/entry`` of any other NeXus file, which for a small-angle run is a valid NXsas.
    file_name
        Name of the file, which it states about itself.
    virtual
        As for `beamline.nexus.run.RunTree`; without ``techniques`` only.
    """

    def __init__(
        self, start: Mapping[str, Any], *, file_name: str = "", virtual: bool = False
    ) -> None:
        self._run = RunTree(start, file_name=file_name, virtual=virtual)
        self._start_doc = start
        self._file_name = file_name
        self._techniques = _techniques(start)
        self._groups: dict[str, str] = {}
        self.tree: Tree = {}

    @property
    def streams(self) -> dict[str, Stream]:
        """Streams by name."""
        return self._run.streams

    @property
    def frames(self) -> Frames:
        """What is known about frames in other files."""
        return self._run.frames

    def expected_rows(self, stream: str) -> int | None:
        """How many events the stream will probably have, or None."""
        return self._run.expected_rows(stream)

    def start(self) -> Tree:
        """Nodes that are known when the run starts."""
        tree = self._with(self._run.start())
        if self._techniques:
            stated: dict[str, Attribute] = {
                "file_name": self._file_name,
                "file_time": iso_time(self._start_doc["time"]),
                "creator": "beamline-dataflow",
                "NeXus_release": NEXUS_RELEASE,
            }
            tree["/"] = Group("NXroot", stated)
        tree[_HOME] = Group("NXcollection")
        _copy(tree, f"{_HOME}/start", self._start_doc)
        for name in ("descriptors", "events"):
            tree[f"{_HOME}/{name}"] = Group("NXcollection")
        return self._keep(tree)

    def descriptor(self, doc: Mapping[str, Any]) -> Tree:
        """Nodes for a descriptor and the events that it announces."""
        tree = self._with(self._run.descriptor(doc))
        name = str(doc.get("name", "primary"))
        place = _free(self.tree, f"{_HOME}/descriptors", name)
        _copy(tree, place, doc)
        stream = self.streams[name]
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _free(self.tree, f"{_HOME}/events", name)
            for path in (group, f"{group}/data", f"{group}/timestamps"):
                tree[path] = Group("NXcollection")
        for key in stream.keys:
            self._add_key(tree, stream, key, group)
        return self._keep(tree)

    def _add_key(self, tree: Tree, stream: Stream, key: str, group: str) -> None:
        path, times = f"{group}/data/{_hdf5_name(key)}", f"{group}/timestamps/{_hdf5_name(key)}"
        described = stream.keys[key]
        if described.external == "stream" or path in self.tree:
            return
        units: dict[str, Attribute] = (
            {} if described.units is None else {"units": clean_text(described.units)}
        )
        dtype, shape = described.dtype, described.shape
        if described.external:
            # The events hold the name of a datum.
            dtype, shape = None, ()
        if self._techniques:
            tree[path] = Column(stream.name, Feed("data", key), dtype, shape, units)
        else:
            builder: Builder = self._run.builder
            tree[path] = Link(builder.home(stream, key))
        clock = Feed("clock", key)
        tree[times] = Column(stream.name, clock, np.dtype(np.float64), (), {"units": "s"})

    def resource(self, name: str, doc: Mapping[str, Any]) -> Tree:
        """Nodes for a `stream_resource` or `resource` document."""
        return self._with_frames(self._run.resource(name, doc))

    def refer(self, key: str, resource: str) -> Tree:
        """Nodes for an event whose data key `key` refers to a classic resource."""
        return self._with_frames(self._run.refer(key, resource))

    def _with_frames(self, made: Tree) -> Tree:
        tree = self._with(made)
        for name, stream in self.streams.items():
            for key, link in self.frames.links.items():
                path = f"{self._groups[name]}/data/{_hdf5_name(key)}"
                # A classic key has a column there: the names of its datums.
                if key in stream.keys and path not in self.tree:
                    tree[path] = link
        return self._keep(tree)

    def stop(self, doc: Mapping[str, Any], rows: Mapping[str, int]) -> Tree:
        """Nodes that are known when the run has ended."""
        tree = self._with(self._run.stop(doc, rows))
        _copy(tree, f"{_HOME}/stop", doc)
        self._keep(tree)
        for technique in self._techniques:
            self._describe(tree, "", technique, 0)
        return self._keep(tree)

    def _with(self, made: Tree) -> Tree:
        return {} if self._techniques else dict(made)

    def _keep(self, tree: Tree) -> Tree:
        self.tree.update(tree)
        return tree

    def _describe(self, tree: Tree, path: str, content: Mapping[str, Any], depth: int) -> None:
        """Add what a mapping describes below a group."""
        for key, value in content.items():
            if key in (*_ATTRIBUTES, "_data", "_link"):
                continue
            here = f"{path}/{_hdf5_name(str(key))}"
            if here == _HOME or here.startswith(f"{_HOME}/"):
                self._complain(here, "is the place of the documents")
            elif isinstance(value, str) and value.startswith("#bluesky"):
                self._link(tree, here, value, {})
            elif not isinstance(value, Mapping):
                _set(tree, here, value, {})
            elif depth >= _DEEPEST:
                self._complain(here, "is nested too deeply")
            elif "_link" in value:
                self._link(tree, here, str(value["_link"]), _attributes(value))
            elif "_data" in value:
                _set(tree, here, value["_data"], _attributes(value))
            else:
                attributes = _attributes(value)
                known = tree.get(here)
                before = dict(known.attributes) if isinstance(known, Group) else {}
                tree[here] = Group(str(attributes.pop("NX_class", "")), {**before, **attributes})
                self._describe(tree, here, value, depth + 1)
        if not path and (attributes := _attributes(content)):
            tree["/"] = Group(str(attributes.pop("NX_class", "NXroot")), attributes)

    def _link(
        self, tree: Tree, path: str, address: str, attributes: Mapping[str, Attribute]
    ) -> None:
        match = _LINK.fullmatch(address)
        if match is None:
            self._complain(path, f"cannot be linked to {address!r}, which is no #bluesky/… address")
            return
        what = {"desc": "descriptors"}.get(match["what"], match["what"])
        target = f"{_HOME}/{what}" + "".join(
            f"/{_hdf5_name(part)}" for part in match["path"].split("/")[1:]
        )
        if match["attribute"]:
            target += f"/{_hdf5_name(match['attribute'])}"
        if target not in self.tree:
            self._complain(path, f"is left out: {address!r} does not exist in this run")
            return
        node = self.tree[target]
        if isinstance(node, ExternalLink):
            # Frames: their file is linked again, as a hard link cannot lead into it.
            tree[path] = node
            if attributes:
                self._complain(path, "is in another file, which keeps its attributes")
        else:
            tree[path] = Link(target, attributes)

    def _complain(self, path: str, what: str) -> None:
        _log.error("run %s: techniques: %s %s.", self._start_doc["uid"], path, what)


def _techniques(start: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    md = start.get("md")
    listed = (md.get("techniques") if isinstance(md, Mapping) else None) or start.get("techniques")
    given = listed if isinstance(listed, list | tuple) else []
    found = []
    for number, technique in enumerate(given, start=1):
        described = technique.get("nxsas") if isinstance(technique, Mapping) else None
        if isinstance(described, Mapping):
            found.append(described)
        else:
            _log.error(
                "run %s: technique %d is ignored: expected a mapping with 'nxsas', found %.60r.",
                start.get("uid"), number, technique,
            )  # fmt: skip
    return found


def _attributes(content: Mapping[str, Any]) -> dict[str, Attribute]:
    """Attributes that a description gives, as HDF5 can hold them."""
    found: dict[str, Attribute] = {}
    for name in _ATTRIBUTES:
        given = content.get(name)
        for key, value in (given if isinstance(given, Mapping) else {}).items():
            made = constant("None" if value is None else value)
            if made is not None:
                found[str(key)] = made.value
    return found


def _copy(tree: Tree, path: str, content: Mapping[str, Any]) -> None:
    """Add a document as nested groups of fields, with its own names."""
    tree[path] = Group("NXcollection")
    for key, value in content.items():
        here = f"{path}/{_hdf5_name(str(key))}"
        if here in tree:
            here = _free(tree, path, str(key))
        if isinstance(value, Mapping) and path.count("/") < _DEEPEST:
            _copy(tree, here, value)
        else:
            _set(tree, here, value, {})


def _set(tree: Tree, path: str, value: Any, attributes: Mapping[str, Attribute]) -> None:
    made = constant("None" if value is None else value, attributes)
    assert made is not None  # noqa: S101  (None is text here)
    tree[path] = Field(made.value, made.attributes)


def _hdf5_name(name: str) -> str:
    """Name of a document's key in HDF5, which refuses a slash, a dot alone and nothing."""
    cleaned = clean_text(name).replace("/", "_")
    return cleaned if cleaned.strip(".") else f"_{cleaned}"


def _free(tree: Tree, parent: str, name: str) -> str:
    used = {path.rpartition("/")[2] for path in tree if path.rpartition("/")[0] == parent}
    return f"{parent}/{unused_name(_hdf5_name(name), used)}"
