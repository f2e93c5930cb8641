"""Settings: one validated model; a YAML file, then ``BEAMLINE_*`` variables, then the command line.

Later sources win. An unknown key is an error that names the source and the nearest known key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from beamline.core.errors import ConfigurationError

__all__ = ["Settings", "Writer", "load_settings"]

_ENVIRONMENT_PREFIX = "BEAMLINE_"
_LISTS = ("sample", "ioc_allow_hosts", "writers")

Writer = Literal["nexus", "cxi", "xpcs", "catalog"]


class Settings(BaseModel):
    """Everything that differs between one beamline and another, or one user and another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beamline_id: str = Field("BL02", description="identifier recorded in every start document")
    facility: str = Field("Simulated Light Source", description="name of the source in files")
    prefix: str = Field(
        "BL02:",
        description="prefix of all process variables",
    )
    device_host: str = Field("127.0.0.1", description="address of the device server")
    device_port: int = Field(6064, ge=0, le=65535, description="its port; 0 takes a free one")
    ioc_port: int = Field(
        5064, ge=0, le=65535, description="Channel Access port; 0 takes a free one"
    )
    ioc_interface: str = Field("127.0.0.1", description="address on which the IOC listens")
    ioc_allow_hosts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("localhost",),
        description="hosts (addresses, networks, names) whose clients may write; others read",
    )
    ioc_autosave: Path | None = Field(
        None, description="file for the IOC's settings; default: ioc/ in the data directory"
    )
    ioc_engineer: str = Field("", max_length=39, description="whom to call about the IOC")
    ioc_location: str = Field("", max_length=39, description="where the IOC runs")
    data_dir: Path = Field(
        Path("beamline-data"), description="journal, catalogue, files and metadata live below it"
    )
    catalog_uri: str | None = Field(
        None, description="address of a tiled server for the catalogue; default: in data_dir"
    )
    simulate: bool = Field(
        True, description="start a simulated beamline, instead of using an IOC that runs"
    )
    sample: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("Cu",), description="built-in samples by name, or XDI files by path; the first is in beam"
    )
    thickness_um: float | None = Field(
        None, gt=0, description="thickness given to a measured foil; default: chosen for its edge"
    )
    seed: int = Field(1, ge=0, lt=2**64, description="seed of all simulated noise")
    time_scale: float = Field(
        1.0, gt=0, le=1000.0, description="simulated seconds per second of the device server"
    )
    lock_step: bool = Field(
        False, description="simulated time passes with the commands: a seed repeats a run exactly"
    )
    connection_timeout: float = Field(30.0, gt=0, description="seconds to wait for any PV")
    writers: tuple[Writer, ...] = Field(
        ("nexus", "cxi", "xpcs", "catalog"),
        description="what a session writes beside its journal; none where a callback server does",
    )
    callbacks_address: str | None = Field(
        None, description="address at which documents are published for callback servers"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="what the IOC's log takes"
    )

    @field_validator("prefix")
    @classmethod
    def _printable(cls, prefix: str) -> str:
        # What the device server takes: the rest would break lists of names, or names themselves.
        if len(prefix) > 32 or not all("!" <= c <= "~" and c not in ",=;*?[]\\" for c in prefix):
            raise ValueError(
                "expected at most 32 printable ASCII characters without blanks and ,=;*?[]\\"
            )
        return prefix


def load_settings(
    path: str | os.PathLike[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    """Merge a YAML file, ``BEAMLINE_*`` variables and overrides into one `Settings`.

    Parameters
    ----------
    path
        YAML file; ``BEAMLINE_CONFIG`` names one where this is None.
    environment
        Variables to read; the process environment by default. A list is separated by commas.
    **overrides
        Values from the command line; None means "not given".

    Raises
    ------
    ConfigurationError
        For an unreadable file, an unknown key or a value of the wrong kind.
    """
    env = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file = path if path is not None else env.get(_ENVIRONMENT_PREFIX + "CONFIG")
    if file is not None:
        for key, value in _read_yaml(Path(file)).items():
            merged[key] = value
            sources[key] = f"{file}"
    for name, text in env.items():
        if name.startswith(_ENVIRONMENT_PREFIX) and name != _ENVIRONMENT_PREFIX + "CONFIG":
            key = name.removeprefix(_ENVIRONMENT_PREFIX).lower()
            merged[key] = [part for part in text.split(",") if part] if key in _LISTS else text
            sources[key] = f"environment variable {name}"
    for key, value in overrides.items():
        if value is not None:
            merged[key] = value
            sources[key] = "command line"
    for key in merged:
        if key not in Settings.model_fields:
            near = difflib.get_close_matches(str(key), Settings.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see 'beamline doctor' for all keys."
            raise ConfigurationError(f"unknown setting {key!r} in {sources[key]}: {hint}")
    for key in _LISTS:
        if isinstance(merged.get(key), str):
            merged[key] = (merged[key],)
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise ConfigurationError(
            f"setting {key!r} in {sources.get(key, 'defaults')} is wrong: {first['msg']}, "
            f"found {first['input']!r}."
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigurationError(f"cannot read the settings file {path}: {reason}.") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigurationError(
            f"the settings file {path} must hold 'key: value' lines, found a "
            f"{type(loaded).__name__}."
        )
    return loaded
