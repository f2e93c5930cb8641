"""Session metadata outlives the process, whatever happens to it."""

import json
from pathlib import Path

import pytest

from beamline.core.errors import ConfigurationError, FileFormatError
from beamline.core.metadata import PersistentMetadata


def test_values_are_there_again(tmp_path: Path):
    first = PersistentMetadata(tmp_path / "deep" / "metadata.json")
    first["scan_id"] = 7
    first["sample"] = {"name": "Fe₂O₃"}
    del first["scan_id"]
    again = PersistentMetadata(tmp_path / "deep" / "metadata.json")
    assert dict(again) == {"sample": {"name": "Fe₂O₃"}}


def test_a_refused_value_changes_nothing(tmp_path: Path):
    metadata = PersistentMetadata(tmp_path / "metadata.json")
    metadata["scan_id"] = 1
    with pytest.raises(ConfigurationError, match="'bad' cannot be kept"):
        metadata["bad"] = object()
    assert dict(metadata) == {"scan_id": 1}
    assert json.loads((tmp_path / "metadata.json").read_text()) == {"scan_id": 1}


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"metadata\.json"):
        PersistentMetadata(tmp_path / "metadata.json")
