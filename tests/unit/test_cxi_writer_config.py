"""cxi-writer's configuration: files, overrides, misspelt keys, agreement with a pipeline."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from beamline.core.errors import ConfigurationError
from beamline.streaming.config import (
    WriterConfig,
    load_config,
    merge_config_with_overrides,
)
from beamline.streaming.consistency import validate_consistency

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
PIPELINE = {
    "ray": {"namespace": "peaknet-pipeline"},
    "runtime": {
        "queue_num_shards": 8,
        "queue_maxsize_per_shard": 1600,
        "queue_names": {"input_queue": "peaknet_q1", "output_queue": "peaknet_q2"},
        "enable_output_queue": True,
    },
}


def cxi_writer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamline.cli.cxi_writer", *arguments],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", ["cxi_writer_default.yaml", "cxi_writer_production.yaml"])
def test_examples_load_and_fit_the_pipeline(name):
    config = load_config(EXAMPLES / name)
    assert config["ray"]["namespace"] == "peaknet-pipeline"
    validate_consistency(PIPELINE, config)


def test_the_default_example_has_every_key_with_its_default():
    shown = yaml.safe_load((EXAMPLES / "cxi_writer_default.yaml").read_text())
    model = WriterConfig().model_dump(mode="json")
    assert {s: list(keys) for s, keys in shown.items()} == {s: list(k) for s, k in model.items()}
    # What the seed's users expect of it is not the library's most careful value.
    model["queue"]["num_shards"] = 8
    model["output"]["output_dir"] = "./cxi_output"
    assert shown == model


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"queue": {"num_shard": 8}}, "'queue.num_shards'"),
        ({"quue": {}}, "'queue'"),
        ({"output": {"buffersize": 1}}, "'output.buffer_size'"),
        ({"output": {"num_cpu_workers": 1}}, "'processing.num_cpu_workers'"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, content, hint):
    path = written(tmp_path / "w.yaml", content)
    with pytest.raises(ConfigurationError, match="unknown") as caught:
        load_config(path)
    assert hint in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"processing": {"num_cpu_workers": 0}}, ("processing.num_cpu_workers", "found 0")),
        ({"peak_finding": {"connectivity": 6}}, ("connectivity", "6")),
        ({"peak_finding": {"min_num_peak": 10, "max_num_peak": 5}}, ("10 and 5",)),
        ({"queue": {"spill_directory": "/x"}}, ("queue.create",)),
        ({"output": []}, ("output",)),
        ([1], ("list",)),
    ],
)
def test_a_wrong_value_names_key_and_value(tmp_path, content, words):
    with pytest.raises(ConfigurationError) as caught:
        load_config(written(tmp_path / "w.yaml", content))
    for word in words:
        assert word in str(caught.value)


def test_overrides_by_any_name_win_and_none_is_not_given():
    config = {"processing": {"num_cpu_workers": 4}, "output": {"output_dir": "a"}}
    merged = merge_config_with_overrides(
        config,
        {
            "num_cpu_workers": 32,
            "output": {"output_dir": Path("/b")},
            "system.log_level": "DEBUG",
            "geom_file": None,
        },
    )
    assert merged["processing"]["num_cpu_workers"] == 32
    assert merged["output"]["output_dir"] == "/b"
    assert merged["system"]["log_level"] == "DEBUG"
    assert merged["geometry"]["geom_file"] is None
    assert config == {"processing": {"num_cpu_workers": 4}, "output": {"output_dir": "a"}}
    with pytest.raises(ConfigurationError, match=r"'processing.num_cpu_workers'"):
        merge_config_with_overrides(config, {"num_cpu_worker": 1})


def test_overrides_of_what_is_no_configuration():
    with pytest.raises(ConfigurationError, match=r"section 'queue' .* must be a mapping, found 5"):
        merge_config_with_overrides({"queue": 5}, {"name": "q"})


def test_every_mismatch_is_listed():
    writer = {"ray": {"namespace": "other"}, "queue": {"name": "q3", "num_shards": 4}}
    pipeline = {**PIPELINE, "runtime": {**PIPELINE["runtime"], "enable_output_queue": False}}
    with pytest.raises(ValueError, match="do not fit") as caught:
        validate_consistency(pipeline, writer)
    for word in ("namespace", "'q3'", "8", "4", "enable_output_queue"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match=r"the pipeline has no ray\.namespace"):
        validate_consistency({}, writer)


def test_a_discovered_shard_count_fits_any_pipeline():
    writer = {"ray": {"namespace": "peaknet-pipeline"}, "queue": {"name": "peaknet_q2"}}
    validate_consistency(PIPELINE, writer)


def test_the_command_validates(tmp_path):
    pipeline = written(tmp_path / "p.yaml", PIPELINE)
    fit = cxi_writer("--validate-config", "--pipeline-config", str(pipeline),
                     "--writer-config", str(EXAMPLES / "cxi_writer_default.yaml"))  # fmt: skip
    assert fit.returncode == 0, fit.stderr
    assert fit.stdout.splitlines() == [
        "✓ Ray namespace matches: peaknet-pipeline",
        "✓ Q2 queue name matches: peaknet_q2",
        "✓ Q2 num shards matches: 8",
        "✓ Output queue is enabled",
        "✓ Configuration validation passed",
    ]
    writer = written(tmp_path / "w.yaml", {"queue": {"name": "q", "num_shards": 4}})
    misfit = cxi_writer("--validate-config", "--pipeline-config", str(pipeline),
                        "--writer-config", str(writer))  # fmt: skip
    assert misfit.returncode == 1
    assert [line[0] for line in misfit.stdout.splitlines()] == ["✓", "✗", "✗", "✓", "✗"]


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    config = written(tmp_path / "w.yaml", {"queue": {"nam": "q"}})
    done = cxi_writer("--config", str(config))
    assert done.returncode == 1
    assert "'queue.name'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    log = tmp_path / "file" / "log"
    log.parent.write_text("")
    unlogged = cxi_writer("--geom-file", "x.geom", "--log-file", str(log))
    assert unlogged.returncode == 1
    assert unlogged.stderr.startswith(f"cxi-writer: the log can't be written to {log}")
    bare = cxi_writer("--validate-config")
    assert bare.returncode == 2
    assert "--pipeline-config" in bare.stderr


def test_an_address_where_nobody_listens_is_refused_at_once():
    """In a process of its own: one that is connected to Ray stays so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        code = (
            "from beamline.streaming.cluster import connected\n"
            "from beamline.streaming.config import RaySettings\n"
            f"for given in ({{'address': {address!r}}}, {{}}):\n"
            "    try:\n"
            "        with connected(RaySettings.model_validate(given)): print('connected')\n"
            "    except Exception as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
            env=os.environ | {"RAY_ADDRESS": address},
        )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"no Ray cluster answers at {address}: ") for line in lines)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom beamline.cli.cxi_writer import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('ray', 'numpy', 'numba', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.splitlines()[-1] == "[]"
