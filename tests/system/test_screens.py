"""The Phoebus screens: they are of the form that Phoebus reads, and all their PVs exist."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from ioc_stack import running

pytestmark = pytest.mark.system

SCREENS = Path(__file__).parents[2] / "profiles" / "screens"

#: Widget types and properties of the display builder (Phoebus 4 and 5), as far as used here.
COMMON = {"name", "x", "y", "width", "height", "tooltip", "macros", "actions", "rules"}
PROPERTIES = {
    "action_button": "background_color pv_name text",
    "bool_button": "labels_from_pv off_label on_label pv_name",
    "combo": "pv_name",
    "embedded": "file resize transparent",
    "image": "color_map data_height data_width log_scale pv_name show_toolbar x_axis y_axis",
    "label": "font foreground_color horizontal_alignment text vertical_alignment",
    "led": "bit off_color on_color pv_name",
    "progressbar": "fill_color limits_from_pv pv_name",
    "rectangle": "background_color corner_height corner_width line_color line_width",
    "stripchart": "end show_legend show_toolbar start traces y_axes",
    "textentry": "format horizontal_alignment pv_name",
    "textupdate": "format horizontal_alignment precision pv_name vertical_alignment",
}
#: Widgets with macros of their own, and what those must be.
MACROS = {"overview": {"P"}, "motor": {"P", "M", "T"}, "motor_row": {"P", "M", "T"},
          "area_detector": {"P"}, "ioc_health": {"P"}}  # fmt: skip


def expand(text: str, macros: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: macros[found[1]], text)


def macros_of(element: ET.Element, outer: dict[str, str]) -> dict[str, str]:
    own = element.find("macros")
    return outer | {m.tag: expand(m.text or "", outer) for m in (own if own is not None else ())}


def pvs(path: Path, outer: dict[str, str], seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Names of all PVs of a screen, of those in it and of those that its buttons open."""
    root = ET.parse(path).getroot()
    # What a screen says about its macros is for when it is opened alone.
    macros = macros_of(root, {}) | outer
    key = (path.name, json.dumps(macros, sort_keys=True))
    if key in seen:
        return
    seen.add(key)
    for widget in root.iter("widget"):
        own = macros | {"pv_name": expand(widget.findtext("pv_name", ""), macros)}
        for tag in ("pv_name", "y_pv", "x_pv"):
            for element in widget.iter(tag):
                if element.text:
                    yield path.name, expand(element.text, own)
        if widget.get("type") == "embedded":
            yield from pvs(
                path.parent / widget.findtext("file", ""), macros_of(widget, macros), seen
            )
        for action in widget.iter("action"):
            if action.get("type") == "open_display":
                inner = macros_of(action, macros)
                yield from pvs(path.parent / action.findtext("file", ""), inner, seen)


@pytest.mark.parametrize("path", sorted(SCREENS.glob("*.bob")), ids=lambda path: path.stem)
def test_a_screen_has_the_form_that_phoebus_reads(path: Path):
    root = ET.parse(path).getroot()
    assert (root.tag, root.get("version")) == ("display", "2.0.0")
    assert {macro.tag for macro in root.find("macros") or ()} == MACROS[path.stem]
    width, height = int(root.findtext("width", "0")), int(root.findtext("height", "0"))
    names = [widget.findtext("name") for widget in root.iter("widget")]
    assert len(names) == len(set(names))
    for widget in root.iter("widget"):
        kind = widget.get("type", "")
        assert kind in PROPERTIES, kind
        assert {part.tag for part in widget} <= COMMON | set(PROPERTIES[kind].split())
        x, y, w, h = (int(widget.findtext(tag, "-1")) for tag in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= width, widget.findtext("name")
        assert 0 <= y < y + h <= height, widget.findtext("name")


def test_every_pv_of_the_screens_is_served(tmp_path: Path):
    found: dict[str, str] = {}
    screens: set[str] = set()
    for path in SCREENS.glob("*.bob"):
        for screen, name in pvs(path, {"P": "BL02:"}, set()):
            screens.add(screen)
            found[name] = screen
    assert len(found) > 150
    assert screens == {f"{name}.bob" for name in MACROS}
    with running(tmp_path) as stack:
        told = stack.client(
            f"""
            names = {sorted(found)!r}
            channels = [epics.PV(name, auto_monitor=False) for name in names]
            end = time.time() + 60
            while time.time() < end and not all(channel.connected for channel in channels):
                time.sleep(0.05)
            tell(missing=[c.pvname for c in channels if not c.connected],
                 empty=[c.pvname for c in channels if c.connected and c.get(timeout=30) is None])
            """
        )
    assert told["missing"] == []
    assert told["empty"] == []


def test_a_wrong_macro_or_pv_would_be_seen(tmp_path: Path):
    text = (SCREENS / "motor_row.bob").read_text()
    (tmp_path / "motor_row.bob").write_text(text.replace("$(M).RBV", "$(MOTOR).RBV"))
    with pytest.raises(KeyError, match="MOTOR"):
        list(pvs(tmp_path / "motor_row.bob", {"P": "BL02:"}, set()))
