"""Settings of actors that no cluster could meet are refused by their name."""

import re
from typing import Any

import pytest
from tip.pipeline.config.toml import make_config
from tip.storage.errors import ConfigError

from .test_fields import BASE


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ({"gpus": 1.5}, "workers.gpus: 1.5 is no share of one GPU and no number of whole ones"),
        ({"gpus": -1.0}, "workers.gpus = -1.0"),
        ({"actors": 0}, "workers.actors = 0"),
        ({"executor": "slurm"}, "workers.executor = 'slurm'"),
        ({"address": "ray://head:10001"}, "workers.address: 'ray://head:10001' is no address of"),
        ({"address": "head"}, "workers.address: 'head' is no address of a cluster's head"),
    ],
)
def test_what_no_cluster_could_meet_is_refused(workers: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config({**BASE, "workers": workers}, "test")


def test_one_gpu_by_number_is_no_device_of_actors() -> None:
    values = {**BASE, "device": "cuda:1"}
    assert make_config(values, "test").device == "cuda:1"
    with pytest.raises(ConfigError, match="gives each actor GPUs of its own"):
        make_config({**values, "workers": {"executor": "ray"}}, "test")


@pytest.mark.parametrize("address", ["", "auto", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses_are_taken_as_ray_prints_them(address: str) -> None:
    assert make_config({**BASE, "workers": {"address": address}}, "t").workers.address == address
