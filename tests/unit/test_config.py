"""Settings: order of the sources, and refusal of what is wrong."""

from pathlib import Path

import pytest
from nexus_documents import line_run

from beamline.core.config import Settings, load_settings
from beamline.core.errors import ConfigurationError
from beamline.documents import Fanout
from beamline.store import DataStore


def test_defaults_need_no_source():
    assert load_settings(environment={}) == Settings()


def test_later_sources_win(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("prefix: 'FILE:'\nseed: 2\ndevice_port: 1\n")
    environment = {"BEAMLINE_SEED": "3", "BEAMLINE_DEVICE_PORT": "2"}
    settings = load_settings(file, environment=environment, device_port=4, seed=None)
    assert (settings.prefix, settings.seed, settings.device_port) == ("FILE:", 3, 4)


def test_the_environment_can_name_the_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("sample: Fe\n")
    assert load_settings(environment={"BEAMLINE_CONFIG": str(file)}).sample == ("Fe",)


def test_hosts_are_a_list_or_one_name(tmp_path: Path):
    environment = {"BEAMLINE_IOC_ALLOW_HOSTS": "localhost,10.1.0.0/16"}
    expected = ("localhost", "10.1.0.0/16")
    assert load_settings(environment=environment).ioc_allow_hosts == expected
    (tmp_path / "settings.yaml").write_text("ioc_allow_hosts: station7\n")
    settings = load_settings(tmp_path / "settings.yaml", environment={})
    assert settings.ioc_allow_hosts == ("station7",)


def test_writers_can_be_chosen_or_left_out(tmp_path: Path):
    assert load_settings(environment={}).writers == ("nexus", "cxi", "xpcs", "catalog")
    assert load_settings(environment={"BEAMLINE_WRITERS": ""}).writers == ()
    (tmp_path / "settings.yaml").write_text("writers: [nexus, catalog]\n")
    assert load_settings(tmp_path / "settings.yaml", environment={}).writers == ("nexus", "catalog")
    with pytest.raises(ConfigurationError, match="'writers' in environment variable"):
        load_settings(environment={"BEAMLINE_WRITERS": "nexsu"})


@pytest.mark.parametrize("writers", [(), ("nexus",)])
def test_a_session_writes_what_is_chosen(tmp_path: Path, writers):
    store = DataStore(tmp_path, writers=writers)
    try:
        session = Fanout(*store.consumers)
        for name, doc in line_run():
            session(name, doc)
    finally:
        store.close()
    assert len(list(tmp_path.glob("journal/*/*.journal"))) == 1
    assert len(list(tmp_path.glob("nexus/*.nxs"))) == len(writers)
    assert not (tmp_path / "catalog").exists()


def test_samples_in_the_environment_are_separated_by_commas():
    assert load_settings(environment={"BEAMLINE_SAMPLE": "Cu,Fe"}).sample == ("Cu", "Fe")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prefx: 'A:'", "unknown setting 'prefx' in .*did you mean 'prefix'"),
        ("seed: many", "setting 'seed' in .*settings.yaml is wrong.*'many'"),
        ("time_scale: 0", "setting 'time_scale'"),
        ("prefix: 'é:'", "setting 'prefix' in .*expected at most 32 printable ASCII.*'é:'"),
        ("prefix: 'A,B:'", "setting 'prefix'"),
        ("prefix: 'A B:'", "setting 'prefix'"),
        (f"prefix: '{33 * 'A'}'", "setting 'prefix'"),
        ("- a list", "found a list"),
        ("a: [", "cannot read the settings file"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, expected: str):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=expected) as caught:
        load_settings(file, environment={})
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml", environment={})


def test_an_unknown_variable_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="BEAMLINE_DATADIR: did you mean 'data_dir'"):
        load_settings(environment={"BEAMLINE_DATADIR": "x"})
