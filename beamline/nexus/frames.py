"""Frames that are in files of their own: links to them, and a count of those referred to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from beamline.nexus.builder import Builder, Stream
from beamline.nexus.metadata import ENTRY, INSTRUMENT, document
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.row_ranges import RowRanges
from beamline.nexus.tree import Attribute, ExternalLink, FrameRange, Virtual

__all__ = ["Frames"]

_log = logging.getLogger(__name__)

#: Where ADCore's HDF5 plugin puts frames, which its classic resource documents don't say.
_CLASSIC_DATASET = "/entry/data/data"
_CLASSIC_SPECS = ("AD_HDF5", "AD_HDF5_SWMR", "AD_HDF5_GERM")


class _Expected:
    """Frames of one data key: where their links go, and how many documents refer to."""

    def __init__(self, stream: Stream, key: str, detector: str, plot: str, shown_as: str) -> None:
        self.stream = stream
        self.key = key
        self.detector = detector
        self.plot = plot
        self.shown_as = shown_as
        self.resources: set[str] = set()
        self.referenced = 0
        self.places: list[str] = []
        self.rows = RowRanges()
        self.is_sparse = False


class Frames:
    """Links to the frames of a run.

    Parameters
    ----------
    virtual
        At the end, put one virtual dataset in the place of the links of each data key.

    Attributes
    ----------
    files : list[str]
        Absolute paths of the files that were linked.
    links : dict[str, ExternalLink]
        The first link of each data key.
    """

    def __init__(self, builder: Builder, *, virtual: bool = False) -> None:
        self._builder = builder
        self._virtual = virtual
        self._expected: dict[str, _Expected] = {}
        self._resources: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self.files: list[str] = []
        self.links: dict[str, ExternalLink] = {}

    def expect(
        self, stream: Stream, key: str, detector: str, plot: str, *, shown_as: str = ""
    ) -> None:
        """Say where links for a data key go.

        Parameters
        ----------
        detector
            Group that gets ``data``.
        plot
            NXdata group that shows the frames; "" for none.
        shown_as
            Name of the frames in that group; that of the data key by default.
        """
        if key in self._expected:
            return
        self._expected[key] = _Expected(stream, key, detector, plot, shown_as)
        for uid, (_, doc) in list(self._resources.items()):
            if doc.get("data_key") == key:
                self.refer(key, uid)

    def resource(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a `stream_resource` or classic `resource` document."""
        self._resources[doc["uid"]] = (name, doc)
        if doc.get("data_key") in self._expected:
            self.refer(doc["data_key"], doc["uid"])

    def refer(self, key: str, resource: str) -> None:
        """Link the file of a resource for a data key, once."""
        expected = self._expected.get(key)
        if expected is None or resource in expected.resources or resource not in self._resources:
            return
        expected.resources.add(resource)
        name, doc = self._resources[resource]
        builder, log = self._builder, self._builder.log(expected.stream, key)
        builder.add(builder.free(log, name), document(doc))
        located = _stream_location(doc) if name == "stream_resource" else _classic_location(doc)
        if located is None:
            _log.warning(
                "run %s: the frames of %r are not linked: expected an HDF5 file with a file:// "
                "address, found %s at %s.",
                builder.start["uid"], key, doc.get("mimetype", doc.get("spec")),
                doc.get("uri", doc.get("resource_path")),
            )  # fmt: skip
            return
        link = ExternalLink(*located)
        self.files.append(link.file)
        self.links.setdefault(key, link)
        if _is_sparse(doc):
            # Only the whole group tells where the photons of a frame begin and which they are.
            expected.is_sparse = True
            group = str(PurePosixPath(link.dataset).parent)
            # NXevent_data is allowed beside an NXdetector and not in it.
            where = builder.free(INSTRUMENT, f"{expected.detector.rpartition('/')[2]}_events")
            builder.add(where, ExternalLink(link.file, group))
        else:
            where = builder.free(expected.detector, "data")
            builder.add(where, link)
            expected.places.append(where)
        if name == "resource":
            # Classic datums say nothing of rows here: all that the file holds.
            expected.rows.add(FrameRange(link.file, link.dataset))
        if expected.plot and expected.plot not in builder.tree:
            self._show(expected, link, doc)

    def _show(self, expected: _Expected, link: ExternalLink, doc: Mapping[str, Any]) -> None:
        builder = self._builder
        described = expected.stream.keys[expected.key]
        chunk = (doc.get("parameters") or {}).get("chunk_shape")
        rank = len(chunk) if isinstance(chunk, list | tuple) else described.frame_rank
        name = expected.shown_as or unused_name(nexus_name(expected.key), {"title"})
        if expected.is_sparse:
            name = "event_index"
        builder.group(expected.plot, "NXdata", signal=name, axes=["."] * rank)
        builder.field(f"{expected.plot}/title", builder.title)
        builder.add(f"{expected.plot}/{name}", link)
        expected.places.append(f"{expected.plot}/{name}")
        if expected.plot == f"{ENTRY}/data":
            builder.group(ENTRY, "NXentry", default="data")

    def datum(self, doc: Mapping[str, Any]) -> None:
        """Count the frames that a `stream_datum` document refers to."""
        _, resource = self._resources.get(doc["stream_resource"], ("", {}))
        expected = self._expected.get(str(resource.get("data_key")))
        if expected is None:
            return
        first, last = int(doc["indices"]["start"]), int(doc["indices"]["stop"])
        expected.referenced += last - first
        located = _stream_location(resource)
        if located is not None:
            each = _frames_per_datum(expected.stream.keys[expected.key].shape, resource)
            numbers = doc.get("seq_nums") or {}
            # A range that is empty is what devices leave to the RunEngine.
            known = int(numbers.get("stop", 0)) - int(numbers.get("start", 0)) == last - first
            place = (int(numbers["start"]) - 1) * each if known else None
            expected.rows.add(FrameRange(*located, first * each, last * each), place)

    def close(self, rows: Mapping[str, int]) -> None:
        """Record how many frames were referred to; warn if events are without one.

        Parameters
        ----------
        rows
            Number of events of each stream.
        """
        for key, expected in self._expected.items():
            stream = expected.stream
            ranges = expected.rows.ranges()
            if self._virtual and ranges and not expected.is_sparse:
                self._unite(expected, ranges)
            if stream.keys[key].external != "stream":
                continue
            self._builder.field(
                f"{self._builder.log(stream, key)}/frames_referenced", expected.referenced
            )
            if any(rows.start for rows in ranges):
                self._builder.field(
                    f"{self._builder.log(stream, key)}/rows_referenced",
                    [
                        f"{PurePosixPath(rows.file).name}: {rows.start} to {rows.stop}"
                        for rows in ranges
                    ],
                )
            if expected.referenced < rows.get(stream.name, 0):
                _log.warning(
                    "run %s: %d events of stream %r have only %d rows of %r referred to by "
                    "stream_datum documents.",
                    self._builder.start["uid"], rows[stream.name], stream.name,
                    expected.referenced, key,
                )  # fmt: skip

    def _unite(self, expected: _Expected, ranges: tuple[FrameRange, ...]) -> None:
        units = expected.stream.keys[expected.key].units
        attributes: dict[str, Attribute] = {} if units is None else {"units": clean_text(units)}
        where, *others = expected.places
        # Further files of the key keep links of their own.
        kept = tuple(place for place in others if not place.startswith(f"{expected.detector}/"))
        self._builder.add(where, Virtual(ranges, kept, attributes))


def _frames_per_datum(shape: tuple[int, ...] | None, resource: Mapping[str, Any]) -> int:
    """Rows of the file for each datum: one, or the frames that an event of several has."""
    chunk = (resource.get("parameters") or {}).get("chunk_shape")
    rank = len(chunk) if isinstance(chunk, list | tuple) else 3
    several = shape is not None and len(shape) == rank > 2
    return shape[0] if several and shape is not None else 1


def _is_sparse(resource: Mapping[str, Any]) -> bool:
    """Whether a resource is an NXevent_data group: it says where the photons are."""
    return bool((resource.get("parameters") or {}).get("event_id"))


def _stream_location(doc: Mapping[str, Any]) -> tuple[str, str] | None:
    uri = urlsplit(str(doc.get("uri", "")))
    is_hdf5 = str(doc.get("mimetype", "")).startswith("application/x-hdf5")
    if not is_hdf5 or uri.scheme != "file" or uri.hostname not in (None, "localhost"):
        return None
    parameters = doc.get("parameters") or {}
    dataset = parameters.get("dataset") or parameters.get("path") or _CLASSIC_DATASET
    if not isinstance(dataset, str):
        dataset = "/".join(_strings(dataset))
    return unquote(uri.path), f"/{clean_text(dataset).lstrip('/')}"


def _classic_location(doc: Mapping[str, Any]) -> tuple[str, str] | None:
    if doc.get("spec") not in _CLASSIC_SPECS:
        return None
    path = PurePosixPath(doc.get("root") or "/") / str(doc.get("resource_path", "")).lstrip("/")
    return str(path), _CLASSIC_DATASET


def _strings(parts: Iterable[Any]) -> list[str]:
    return [str(part) for part in parts]
