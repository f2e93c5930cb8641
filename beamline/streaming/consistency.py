"""Whether the configurations of a pipeline and of a writer fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beamline.core.errors import ConfigurationError

__all__ = ["Check", "check_consistency", "validate_consistency"]

_MISSING = object()


@dataclass(frozen=True)
class Check:
    """One setting on which pipeline and writer must agree.

    Attributes
    ----------
    passed
        Whether they do.
    text
        The finding, one line.
    """

    passed: bool
    text: str


def check_consistency(
    pipeline_config: Mapping[str, Any], writer_config: Mapping[str, Any]
) -> list[Check]:
    """Compare namespace, queue name and shard count, and see whether the output queue is enabled.

    Parameters
    ----------
    pipeline_config
        With ``ray.namespace`` and ``runtime.{queue_names.output_queue,queue_num_shards,
        enable_output_queue}``; other keys are not looked at.
    writer_config
        With ``ray.namespace`` and ``queue.{name,num_shards}``; a shard count that is missing or
        None is discovered, so that any fits.
    """
    found = [
        _compare(label, _get(pipeline_config, theirs), _get(writer_config, ours), theirs, ours)
        for label, theirs, ours in (
            ("Ray namespace", "ray.namespace", "ray.namespace"),
            ("Q2 queue name", "runtime.queue_names.output_queue", "queue.name"),
        )
    ]
    theirs, ours = "runtime.queue_num_shards", "queue.num_shards"
    shards, expected = _get(pipeline_config, theirs), _get(writer_config, ours)
    if expected is _MISSING or expected is None:
        found.append(Check(passed=True, text="Q2 num shards is discovered by the writer"))
    else:
        found.append(_compare("Q2 num shards", shards, expected, theirs, ours))
    enabled = _get(pipeline_config, "runtime.enable_output_queue")
    if enabled is True:
        found.append(Check(passed=True, text="Output queue is enabled"))
    else:
        shown = "is missing" if enabled is _MISSING else f"is {enabled!r}"
        found.append(
            Check(
                passed=False,
                text=f"Output queue is not enabled: the pipeline's runtime.enable_output_queue "
                f"{shown}, expected true",
            )
        )
    return found


def validate_consistency(
    pipeline_config: Mapping[str, Any], writer_config: Mapping[str, Any]
) -> None:
    """Do as `check_consistency` does and refuse what does not fit.

    Raises
    ------
    ConfigurationError
        (a ValueError) that lists every mismatch.
    """
    failed = [
        check.text
        for check in check_consistency(pipeline_config, writer_config)
        if not check.passed
    ]
    if failed:
        raise ConfigurationError(
            "pipeline and writer do not fit together: " + "; ".join(failed) + "."
        )


def _compare(label: str, theirs: Any, ours: Any, their_key: str, our_key: str) -> Check:
    if theirs is _MISSING or theirs is None:
        return Check(passed=False, text=f"{label}: the pipeline has no {their_key}")
    if ours is _MISSING or ours is None:
        return Check(passed=False, text=f"{label}: the writer has no {our_key}")
    if theirs != ours:
        return Check(
            passed=False,
            text=f"{label} differs: the pipeline's {their_key} is {theirs!r}, the writer's "
            f"{our_key} is {ours!r}",
        )
    return Check(passed=True, text=f"{label} matches: {theirs}")


def _get(config: Mapping[str, Any], path: str) -> Any:
    found: Any = config
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return _MISSING
        found = found[key]
    return found
