"""One run as a NeXus tree: documents in, the nodes that each adds out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from beamline.nexus import powder, small_angle, xafs
from beamline.nexus.builder import Builder, Stream
from beamline.nexus.claim import Claim
from beamline.nexus.frames import Frames
from beamline.nexus.geometry import add_geometry
from beamline.nexus.instrument import (
    add_detector,
    add_monitor,
    device_names,
    lay_out_devices,
)
from beamline.nexus.keys import configuration_key, data_keys, hinted_fields
from beamline.nexus.metadata import (
    COLLECTION,
    ENTRY,
    INSTRUMENT,
    constant,
    document,
    start_tree,
    stop_tree,
)
from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.plot import DATA, lay_out_plot, main_stream, shows_frames
from beamline.nexus.roles import Options
from beamline.nexus.tree import Attribute, Group, Tree

__all__ = ["RunTree"]

_log = logging.getLogger(__name__)
_BASELINE = "baseline"


class RunTree:
    """The NeXus tree of one run.

    Parameters
    ----------
    start
        The start document.
    file_name
        Name of the file, which it states about itself.
    virtual
        Put virtual datasets in the place of links to frames when the run has ended.

    Attributes
    ----------
    tree : Tree
        All nodes so far.
    streams : dict[str, Stream]
        Streams by name.
    frames : Frames
        What is known about frames in other files.
    """

    def __init__(
        self, start: Mapping[str, Any], *, file_name: str = "", virtual: bool = False
    ) -> None:
        self._options = Options.of(start)
        self._file_name = file_name
        self._builder = Builder(start, self._options)
        self._main_name = main_stream(start)
        self._main: Stream | None = None
        self._claim: Claim | None = None
        self._waiting: list[Stream] = []
        self.streams: dict[str, Stream] = {}
        self.frames = Frames(self._builder, virtual=virtual)

    @property
    def builder(self) -> Builder:
        """What knows where each data key is."""
        return self._builder

    @property
    def tree(self) -> Tree:
        """All nodes so far."""
        return self._builder.tree

    def start(self) -> Tree:
        """Nodes that are known when the run starts."""
        builder = self._builder
        builder.add_all(start_tree(builder.start, self._options, self._file_name))
        return builder.take()

    def expected_rows(self, stream: str) -> int | None:
        """How many events the stream will probably have, or None."""
        if stream == _BASELINE:
            return 2
        number = self._builder.start.get("num_points")
        if stream != self._main_name or not isinstance(number, int) or number < 1:
            return None
        return number

    def descriptor(self, doc: Mapping[str, Any]) -> Tree:
        """Nodes for the stream of a descriptor; a second one of a stream adds its configuration."""
        builder = self._builder
        name = str(doc.get("name", "primary"))
        stream = self.streams.get(name)
        keys = data_keys(doc, device_names(self._builder.start, "motors"))
        if stream is None:
            detectors = device_names(builder.start, "detectors")
            settings = doc.get("configuration") or {}
            stream = builder.make_stream(name, keys, hinted_fields(doc, detectors), settings)
            self.streams[name] = stream
            self._place(stream)
        else:
            stream.extend(keys)
        self._add_logs(stream)
        self._add_configuration(stream, doc)
        self._settle_claim()
        path = builder.free(f"{COLLECTION}/documents", f"descriptor_{name}")
        builder.add(path, document(doc))
        return builder.take()

    def resource(self, name: str, doc: Mapping[str, Any]) -> Tree:
        """Nodes for a `stream_resource` or `resource` document."""
        self.frames.resource(name, doc)
        self._settle_claim()
        return self._builder.take()

    def refer(self, key: str, resource: str) -> Tree:
        """Nodes for an event whose data key `key` refers to a classic resource."""
        self.frames.refer(key, resource)
        self._settle_claim()
        return self._builder.take()

    def stop(self, doc: Mapping[str, Any], rows: Mapping[str, int]) -> Tree:
        """Nodes that are known when the run has ended.

        Parameters
        ----------
        rows
            Number of events of each stream.
        """
        builder = self._builder
        if self._main is None and self._waiting:
            # The stream that the run should be about never came: another one takes its place.
            others = [stream for stream in self._waiting if stream.name != _BASELINE]
            if others:
                self._lay_out_main(others[0])
            self._place_waiting()
        self.frames.close(rows)
        self._settle_claim(final=True)
        builder.add_all(stop_tree(doc))
        return builder.take()

    def _place(self, stream: Stream) -> None:
        if stream.name == self._main_name:
            self._lay_out_main(stream)
            self._place_waiting()
            return
        self._waiting.append(stream)
        if self._main is not None:
            self._place_waiting()

    def _place_waiting(self) -> None:
        """Put the values of other streams where the main one has left places free."""
        for stream in self._waiting:
            if stream is self._main:
                continue
            taken = set(self._main.keys) if self._main is not None else set()
            names = [key for key in stream.keys if key not in taken]
            for key in names:
                # Their columns may have been made by now: they stay in the log of the stream.
                if not stream.keys[key].external:
                    self._builder.home(stream, key)
            lay_out_devices(self._builder, stream, names, detectors=False)
            if self._claim is not None:
                self._claim.offer(self._builder, stream)
            for key in names:
                if stream.keys[key].external:
                    self._add_frames(stream, key, plot="")
            if stream.name == _BASELINE:
                self._builder.link(f"{ENTRY}/{_BASELINE}", stream.path)
        self._waiting.clear()

    def _lay_out_main(self, stream: Stream) -> None:
        builder = self._builder
        self._main = stream
        spectrum = self._options.definition == "NXxas" and xafs.is_possible(builder, stream)
        if spectrum:
            xafs.lay_out_spectrum(builder, stream)
        elif self._options.definition == "NXmonopd":
            self._claim = powder.lay_out_pattern(builder, stream)
        elif small_angle.is_small_angle(builder, stream):
            self._claim = small_angle.lay_out_images(builder, stream, self.frames)
        has_plot = spectrum or self._claim is not None
        lay_out_devices(
            builder, stream, list(stream.keys),
            detectors=True, counters_aside=self._claim is not None,
        )  # fmt: skip
        show_frames = not has_plot and shows_frames(builder, stream)
        if not has_plot and not show_frames:
            lay_out_plot(builder, stream)
        elif self._claim is not None and self._claim.definition == "NXsas":
            lay_out_plot(builder, stream, "scan/data")
        if self._claim is not None:
            self._claim.offer(builder, stream)
        for key, described in stream.keys.items():
            if described.external:
                plot = "" if has_plot else builder.free(ENTRY, key)
                if show_frames:
                    plot, show_frames = DATA, False
                self._add_frames(stream, key, plot=plot)
        add_monitor(builder, stream)
        if not spectrum:
            self._link_first_detector(stream)

    def _add_frames(self, stream: Stream, key: str, *, plot: str) -> None:
        builder = self._builder
        path = builder.detectors.get((stream.name, key))
        if path is None:
            path = builder.free(INSTRUMENT, key)
            add_detector(builder, stream, key, path)
        add_geometry(builder, path, stream, key)
        self.frames.expect(stream, key, path, plot)

    def _settle_claim(self, *, final: bool = False) -> None:
        if self._claim is not None and self._claim.settle(self._builder, final=final):
            self._claim = None

    def _link_first_detector(self, stream: Stream) -> None:
        """``instrument/detector`` is the first detector, under whatever name it has."""
        of_stream = [
            self._builder.detectors[stream.name, key]
            for key in [*stream.hinted, *stream.keys]
            if (stream.name, key) in self._builder.detectors
        ]
        if of_stream:
            self._builder.link(f"{INSTRUMENT}/detector", of_stream[0])

    def _add_logs(self, stream: Stream) -> None:
        builder = self._builder
        for key, described in stream.keys.items():
            log = builder.log(stream, key)
            if described.external != "stream":
                builder.link(f"{log}/value", builder.home(stream, key))

    def _add_configuration(self, stream: Stream, doc: Mapping[str, Any]) -> None:
        configuration = doc.get("configuration") or {}
        filled = {name: given for name, given in configuration.items() if given.get("data")}
        if not filled:
            return
        builder = self._builder
        path = builder.free(stream.path, "configuration")
        builder.group(path, "NXcollection")
        for device, given in filled.items():
            group = builder.free(path, device)
            builder.add(group, Group("NXcollection", _original(group, device)))
            used: set[str] = set()
            for key, value in given["data"].items():
                name = unused_name(nexus_name(key), used)
                used.add(name)
                described = given.get("data_keys", {}).get(key, {})
                units = configuration_key(key, described, device).units
                attributes = _original(name, key)
                if units is not None:
                    attributes["units"] = clean_text(units)
                made = constant(value, attributes)
                if made is not None:
                    builder.add(f"{group}/{name}", made)


def _original(path: str, name: str) -> dict[str, Attribute]:
    return {} if path.rpartition("/")[2] == name else {"original_name": clean_text(name)}
