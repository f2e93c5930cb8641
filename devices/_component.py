"""Components of devices: with a name of their own, and which of them are read into events."""

from __future__ import annotations

from typing import Any

from ophyd import Component, Device, Kind

__all__ = ["Named", "recorded"]


class Named(Component):
    """A component called `name`, where ophyd would call it ``<name of the device>_<attribute>``.

    Parameters
    ----------
    cls
        Class of the component.
    suffix
        Added to the prefix of the device.
    name
        Name of the component, and so of its data key.
    **kwargs
        As for ``ophyd.Component``.
    """

    def __init__(self, cls: type, suffix: str, *, name: str, **kwargs: Any) -> None:
        self.own_name = name
        super().__init__(cls, suffix, **kwargs)

    def create_component(self, instance: Any) -> Any:
        """Instantiate the component for a device."""
        kwargs = {
            keyword: self.maybe_add_prefix(instance, keyword, value)
            for keyword, value in self.kwargs.items()
        }
        return self.cls(
            self.maybe_add_prefix(instance, "suffix", self.suffix),
            name=self.own_name,
            kind=instance._component_kinds[self.attr],  # noqa: SLF001  (as the base class does)
            attr_name=self.attr,
            parent=instance,
            **kwargs,
        )


def recorded(device: Device) -> list[Any]:
    """Return the components that are read into events, in order: those of kind normal or hinted.

    ophyd makes an enumeration of every comparison, for each component and each reading.
    """
    return [
        signal
        for signal in (getattr(device, name) for name in device.component_names)
        if int.__and__(signal.kind, Kind.normal)
    ]
