"""Settings of ``cxi-writer``: one validated model; a YAML file, then the command line.

An unknown key is an error that names the file and the nearest known key. Callers get plain nested
dictionaries with every key present, so that ``config["ray"]["namespace"]`` works.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from beamline.core.errors import ConfigurationError

__all__ = [
    "GeometrySettings",
    "OutputSettings",
    "PeakFindingSettings",
    "ProcessingSettings",
    "QueueSettings",
    "RaySettings",
    "SystemSettings",
    "WriterConfig",
    "load_config",
    "merge_config_with_overrides",
    "read_yaml",
    "validated",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_S = TypeVar("_S", bound=_Section)


class RaySettings(_Section):
    """Which Ray cluster, and which namespace in it."""

    namespace: str = Field(
        "peaknet-pipeline", min_length=1, description="as the pipeline's; actors are found in it"
    )
    address: str = Field(
        "auto",
        min_length=1,
        description="auto: the cluster that runs here, else a local one; local: always a new local "
        "one; or host:port of a cluster",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of a cluster started here; default: all"
    )
    object_store_mb: int | None = Field(
        None, ge=80, description="shared memory of a cluster started here, MB; default: Ray's"
    )


class QueueSettings(_Section):
    """Q2, the queue that the pipeline fills."""

    name: str = Field("peaknet_q2", min_length=1, description="as the pipeline's output_queue")
    num_shards: int | None = Field(
        None, ge=1, description="as the pipeline's queue_num_shards; default: as found"
    )
    maxsize_per_shard: int = Field(
        1600, ge=1, description="items per shard; used where this writer makes the queue"
    )
    create: bool = Field(
        False, description="make the queue if it is not there, instead of waiting for the pipeline"
    )
    spill_directory: Path | None = Field(
        None, description="where a queue made here keeps its items; default: Ray's memory alone"
    )
    spill_mb: int = Field(
        10_000, ge=1, description="what a queue made here may keep on disk, MB; then put() waits"
    )
    poll_timeout: float = Field(
        0.01,
        ge=0,
        le=10,
        description="seconds between looks at an empty queue whose actors can't say that an item "
        "came: the reference's",
    )
    lease_items: int = Field(8, ge=1, le=1000, description="items taken at once")
    wait_timeout: float | None = Field(
        None, gt=0, description="seconds to wait for the queue to be there; default: for ever"
    )
    idle_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds without an item after which the work is done, for queues that have no "
        "end marker; default: never",
    )


class ProcessingSettings(_Section):
    """How much is done at once."""

    num_cpu_workers: int = Field(
        16, ge=1, description="tasks that find peaks at once; the most if adaptive_workers"
    )
    adaptive_workers: bool = Field(
        True, description="choose the number of tasks by the throughput measured"
    )
    max_pending_tasks: int = Field(
        100, ge=1, description="tasks submitted and not finished: bounds memory"
    )
    events_per_task: int = Field(8, ge=1, description="events of an item that a task takes")
    max_unwritten_mb: int = Field(
        4000, ge=1, description="frames and logits held until their file is complete, MB"
    )
    max_attempts: int = Field(
        3, ge=1, description="times that an event is tried before it is counted as lost"
    )


class PeakFindingSettings(_Section):
    """What is a peak, and what is a hit."""

    min_num_peak: int = Field(10, ge=0, description="fewer peaks are no hit: not written")
    max_num_peak: int = Field(
        2048, ge=1, description="of more peaks the strongest are stored (width of the arrays)"
    )
    connectivity: Literal[4, 8] = Field(8, description="neighbours that belong to one peak")
    min_pixels: int = Field(1, ge=1, description="smaller peaks are left out")
    padding: Literal["bottom-right", "centred"] = Field(
        "bottom-right",
        description="where the pipeline pads: bottom-right (peaknet-pipeline-ray) or centred "
        "(lclstreamer)",
    )

    @model_validator(mode="after")
    def _ordered(self) -> PeakFindingSettings:
        if self.min_num_peak > self.max_num_peak:
            raise ValueError(
                f"min_num_peak must not exceed max_num_peak, found {self.min_num_peak} and "
                f"{self.max_num_peak}"
            )
        return self


class GeometrySettings(_Section):
    """The detector."""

    geom_file: Path | None = Field(None, description="CrystFEL geometry; required to write")
    distance_mm: float | None = Field(
        None, gt=0, description="camera length, mm, for a geometry that takes clen from the data"
    )


class OutputSettings(_Section):
    """The CXI files."""

    output_dir: Path = Field(Path("cxi_output"), description="where they go, and the journal")
    file_prefix: str = Field(
        "peaknet_cxi", pattern=r"^[^/\x00]+$", description="names begin with it"
    )
    buffer_size: int = Field(100, ge=1, description="events per file")
    max_file_seconds: float = Field(
        10.0, gt=0, description="a file with fewer events is completed after so long"
    )
    create_output_dir: bool = Field(True, description="make the directory if it is missing")
    compression: Literal["none", "gzip", "bitshuffle"] = Field(
        "none", description="of the frames; gzip is read everywhere, bitshuffle needs a plugin"
    )
    maps: bool = Field(
        False, description="store segmentation and logits of every hit too, to find errors"
    )
    directory_per_run: bool = Field(
        True, description="a directory for each run that items name (metadata run_uid or run)"
    )
    run_metadata_file: Path | None = Field(
        None, description="YAML or JSON of the run management: sample, source, proposal, …"
    )


class SystemSettings(_Section):
    """Log, progress, health."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="what the log takes"
    )
    log_file: Path | None = Field(None, description="the log goes there too")
    progress_interval: int = Field(50, ge=1, description="a line in the log every so many items")
    health_host: str = Field("127.0.0.1", description="address of the health endpoint")
    health_port: int | None = Field(
        9579, ge=0, le=65535, description="its port; 0 takes a free one, null for no endpoint"
    )


def _defaults(section: type[_S]) -> _S:
    return section.model_validate({})


class WriterConfig(_Section):
    """All settings of ``cxi-writer``."""

    ray: RaySettings = _defaults(RaySettings)
    queue: QueueSettings = _defaults(QueueSettings)
    processing: ProcessingSettings = _defaults(ProcessingSettings)
    peak_finding: PeakFindingSettings = _defaults(PeakFindingSettings)
    geometry: GeometrySettings = _defaults(GeometrySettings)
    output: OutputSettings = _defaults(OutputSettings)
    system: SystemSettings = _defaults(SystemSettings)

    @model_validator(mode="after")
    def _spill_needs_queue(self) -> WriterConfig:
        if self.queue.spill_directory is not None and not self.queue.create:
            raise ValueError(
                "queue.spill_directory is for a queue made here (queue.create: true); that of "
                "another is set where it is made"
            )
        return self


def load_config(config_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate a YAML file.

    Returns
    -------
    dict
        Section → key → value, with every key; paths as text.

    Raises
    ------
    ConfigurationError
        For an unreadable file, an unknown key or a value of the wrong kind.
    """
    return _plain(validated(read_yaml(config_path), f"{config_path}"))


def merge_config_with_overrides(
    config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Put overrides into a configuration; neither argument is changed.

    Parameters
    ----------
    config
        As `load_config` returns it.
    overrides
        Values by name (``num_cpu_workers``), by ``section.key``, or in nested mappings; None means
        "not given".

    Raises
    ------
    ConfigurationError
        For an unknown key or a value of the wrong kind.
    """
    for section, values in config.items():
        if values is not None and not isinstance(values, Mapping):
            raise ConfigurationError(
                f"section {section!r} of the configuration must be a mapping, found {values!r}."
            )
    merged = {section: dict(values or {}) for section, values in config.items()}
    owners = {key: section for section, key in _known() if key}
    for name, value in _flat(overrides):
        if value is None:
            continue
        section, _, key = name.rpartition(".")
        section = section or owners.get(key, "")
        if (section, key) not in set(_known()):
            raise ConfigurationError(
                f"unknown setting {name!r} among the overrides: {_hint(name, key)}"
            )
        merged.setdefault(section, {})[key] = value
    return _plain(validated(merged, "the overrides or their configuration"))


def validated(config: Mapping[str, Any] | WriterConfig, source: str = "dict") -> WriterConfig:
    """Make the model from nested mappings.

    Parameters
    ----------
    config
        Section → key → value; what is missing takes its default.
    source
        Where it comes from, for messages.

    Raises
    ------
    ConfigurationError
        For an unknown key or a value of the wrong kind.
    """
    if isinstance(config, WriterConfig):
        return config
    for section, values in config.items():
        if section not in WriterConfig.model_fields:
            raise ConfigurationError(
                f"unknown section {section!r} in {source}: {_hint(section, section)}"
            )
        if values is not None and not isinstance(values, Mapping):
            raise ConfigurationError(
                f"section {section!r} in {source} must hold 'key: value' lines, found {values!r}."
            )
        known = set(_known())
        for key in values or {}:
            if (section, key) not in known:
                raise ConfigurationError(
                    f"unknown setting '{section}.{key}' in {source}: "
                    f"{_hint(f'{section}.{key}', str(key))}"
                )
    try:
        return WriterConfig.model_validate(
            {name: dict(values or {}) for name, values in config.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        found = (
            ""
            if isinstance(first["input"], Mapping | BaseModel)
            else (f", found {first['input']!r}")
        )
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(
            f"setting {where!r} in {source} is wrong: {reason}{found}."
        ) from None


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds a mapping.

    Raises
    ------
    ConfigurationError
        If it can't be read or holds something else.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigurationError(f"cannot read {path}: {reason}.") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigurationError(
            f"{path} must hold 'key: value' lines, found a {type(loaded).__name__}."
        )
    return {str(key): value for key, value in loaded.items()}


def _plain(config: WriterConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _known() -> Iterator[tuple[str, str]]:
    for section, field in WriterConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)  # noqa: S101  (for the type checker)
        assert issubclass(model, BaseModel)  # noqa: S101
        for key in model.model_fields:
            yield section, key


def _flat(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield f"{name}.{key}", inner
        else:
            yield name, value


def _hint(name: str, key: str) -> str:
    sections = list(WriterConfig.model_fields)
    known = [f"{section}.{known}" for section, known in _known()]
    near = difflib.get_close_matches(name, [*known, *sections], n=1)
    if not near:
        owners = {known: f"{section}.{known}" for section, known in _known()}
        near = [owners[k] for k in difflib.get_close_matches(key, owners, n=1)]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"the sections are {', '.join(sections)}."
