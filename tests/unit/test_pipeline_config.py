"""Settings of `beamline pipeline`."""

import pytest

from beamline.core.errors import ConfigurationError
from beamline.streaming.config import WriterConfig
from beamline.streaming.consistency import check_consistency
from beamline.streaming.pipeline_config import load_pipeline_config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runtime: {queue_num_shard: 4}", r"'runtime.queue_num_shard'.*'runtime.queue_num_shards'"),
        ("runtimes: {}", "'runtimes'.*'runtime'"),
        ("inference: {max_workers: 0}", "'inference.max_workers'.*found 0"),
        (
            "inference: {min_workers: 3}",
            "'inference' .*min_workers must not exceed max_workers, found 3 and 2",
        ),
        ("source: {kind: socket}", "'source.kind'.*found 'socket'"),
        ("- a list", "must hold 'key: value' lines"),
        ("ray: {namespace: ''}", "'ray.namespace'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, text, said):
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        load_pipeline_config(path)
    assert "pipeline.yaml" in str(caught.value)


def test_the_command_line_wins_and_what_is_not_given_does_not(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("source: {kind: file, total_samples: 5}\nmodel:\n")
    config = load_pipeline_config(path, {"source.total_samples": 9, "source.kind": None})
    assert (config.source.kind, config.source.total_samples) == ("file", 9)
    assert config.model.name == "local-background"
    path.write_text("source: simulator\n")
    with pytest.raises(ConfigurationError, match=r"'source' .* found 'simulator'"):
        load_pipeline_config(path, {"source.kind": "file"})


def test_the_defaults_fit_those_of_the_writer():
    pipeline = load_pipeline_config(None).model_dump(mode="json")
    writer = WriterConfig.model_validate({}).model_dump(mode="json")
    assert all(check.passed for check in check_consistency(pipeline, writer))
