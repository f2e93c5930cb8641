"""Settings of ``beamline pipeline``: a YAML file, as the inference pipelines of LCLS have it.

The keys that pipeline and writer must agree on are `RuntimeSettings` and ``ray.namespace``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from beamline.core.errors import ConfigurationError
from beamline.streaming.config import RaySettings, read_yaml

__all__ = ["PipelineConfig", "load_pipeline_config"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueueNames(_Section):
    """Base names of the queues."""

    input_queue: str = Field("peaknet_q1", min_length=1, description="Q1: frames")
    output_queue: str = Field("peaknet_q2", min_length=1, description="Q2: logits")


class RuntimeSettings(_Section):
    """The queues."""

    queue_num_shards: int = Field(8, ge=1, description="shards of either queue")
    queue_maxsize_per_shard: int = Field(1600, ge=1, description="items that a shard holds")
    queue_names: QueueNames = QueueNames.model_validate({})
    enable_output_queue: bool = Field(True, description="false: drop the logits (speed tests)")
    spill_directory: Path | None = Field(
        None, description="where new queues keep their items, so that they outlive their actors"
    )
    spill_mb: int = Field(
        10_000, ge=1, description="what either queue holds at most, MB; then producers wait"
    )
    lease_seconds: float = Field(
        120.0, gt=0, description="after so long the item of a worker that died comes back"
    )
    batch_size: int = Field(4, ge=1, description="frames per item")


class SourceSettings(_Section):
    """Where frames come from."""

    kind: Literal["queue", "simulator", "file"] = Field(
        "queue", description="queue: others fill Q1; simulator: stills; file: CXI or HDF5"
    )
    total_samples: int | None = Field(None, ge=1, description="frames; null: all, or for ever")
    rate: float | None = Field(None, gt=0, description="frames per second; null: no limit")
    # simulator
    seed: int = Field(1, ge=0, description="of crystals and noise")
    energy_eV: float = Field(  # noqa: N815  (the unit belongs to the name)
        9500.0, ge=4000, le=20000, description="photon energy, eV"
    )
    exposure_s: float = Field(0.1, gt=0, description="exposure time, s")
    physics: dict[str, float | str] = Field(
        default_factory=dict, description="settings of the simulation (docs/protocol.md)"
    )
    geom_file: Path | None = Field(
        None, description="the simulated detector's CrystFEL geometry is written there"
    )
    # file
    paths: list[Path] = Field(default_factory=list, description="files, in order")
    dataset: str | None = Field(None, description="path of the frames; null: as found")
    photon_energy_eV: float | None = Field(  # noqa: N815
        None, gt=0, description="for files that do not hold it, eV"
    )


class PreprocessingSettings(_Section):
    """How frames are brought into the model's shape."""

    pad_to_multiple: int = Field(1, ge=1, description="rows and columns become a multiple of it")
    pad_to_shape: tuple[int, int] | None = Field(None, description="or this shape (rows, columns)")
    padding: Literal["bottom-right", "centred"] = Field(
        "bottom-right", description="where the padding goes; the writer must know it"
    )
    normalise: Literal["none", "panel"] = Field(
        "none", description="panel: mean 0 and deviation 1 per panel"
    )
    fill: Literal["mirror", "zero"] = Field(
        "mirror", description="what the model sees in the padding: the panel mirrored, or zeros"
    )
    image_dtype: Literal["float32", "source"] = Field(
        "float32", description="of the images on Q2; source: as the detector has them"
    )


class ModelSettings(_Section):
    """The model."""

    name: str = Field(
        "local-background",
        description="local-background, spot-network, an .onnx file or module:factory",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="arguments of the model")


class InferenceSettings(_Section):
    """The workers."""

    min_workers: int = Field(1, ge=1, description="so many at least")
    max_workers: int = Field(2, ge=1, description="and at most, by load and free CPUs")
    cpus_per_worker: float = Field(1.0, ge=0, description="CPUs that Ray reserves for each")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs")
    backlog_per_worker: int = Field(4, ge=1, description="items waiting that call for another one")
    idle_seconds: float = Field(10.0, gt=0, description="after so long without work one goes")
    items_at_once: int = Field(2, ge=1, description="items leased at a time")
    max_attempts: int = Field(3, ge=1, description="times that an item is tried")

    @model_validator(mode="after")
    def _ordered(self) -> InferenceSettings:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers must not exceed max_workers, found {self.min_workers} and "
                f"{self.max_workers}"
            )
        return self


class SystemSettings(_Section):
    """The log."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="its level")
    log_file: Path | None = Field(None, description="the log goes there too")
    progress_seconds: float = Field(5.0, gt=0, description="a line of progress every so often")


class PipelineConfig(_Section):
    """All settings of ``beamline pipeline``."""

    ray: RaySettings = RaySettings.model_validate({})
    runtime: RuntimeSettings = RuntimeSettings.model_validate({})
    source: SourceSettings = SourceSettings.model_validate({})
    preprocessing: PreprocessingSettings = PreprocessingSettings.model_validate({})
    model: ModelSettings = ModelSettings.model_validate({})
    inference: InferenceSettings = InferenceSettings.model_validate({})
    system: SystemSettings = SystemSettings.model_validate({})


def load_pipeline_config(
    path: str | os.PathLike[str] | None, overrides: Mapping[str, Any] | None = None
) -> PipelineConfig:
    """Read and validate the settings.

    Parameters
    ----------
    path
        YAML file; None for the defaults.
    overrides
        Values by ``section.key``; None means "not given".

    Raises
    ------
    ConfigurationError
        For an unreadable file, an unknown key (the nearest known one is named) or a wrong value.
    """
    values: dict[str, Any] = {} if path is None else read_yaml(path)
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        given = values.get(section) or {}
        # What is no mapping is refused below.
        if value is not None and isinstance(given, Mapping):
            values[section] = {**given, key: value}
    try:
        return PipelineConfig.model_validate(
            {key: {} if value is None else value for key, value in values.items()}
        )
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, list(_keys(PipelineConfig)), n=1)
            said = f"is unknown{f', did you mean {near[0]!r}?' if near else '.'}"
        else:
            reason = found["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(found["input"], Mapping) else f", found {found['input']!r}"
            said = f"is wrong: {reason}{shown}."
        raise ConfigurationError(f"setting {where!r} in {path or 'the command'} {said}") from None


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, info in model.model_fields.items():
        names.append(prefix + name)
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += _keys(kind, f"{prefix}{name}.")
    return names
