"""What makes another run of a config, and what does not."""

from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import make_config

from .test_run import LEAST

SERVED = {
    "score": {"mode": "separate", "engine": "server"},
    "teacher": {"model": "t", "server": {"url": "http://one:8000"}},
}


def test_only_what_changes_results_makes_another_run() -> None:
    before = make_config(LEAST, "x").model_dump(mode="json")
    assert same_run(before, make_config(LEAST | {"rounds": 20, "store": "other"}, "x")) == []
    assert same_run(before, make_config(LEAST | {"seed": 1}, "x")) == ["seed"]
    changed = make_config(LEAST | {"select": {"keep": 0.5}}, "x")
    assert same_run(before, changed) == ["select.keep"]


def test_a_run_goes_on_after_its_server_moved() -> None:
    before = make_config(LEAST | SERVED, "x").model_dump(mode="json")
    moved = SERVED | {"teacher": {"model": "t", "server": {"url": "http://two:8000"}}}
    assert same_run(before, make_config(LEAST | moved, "x")) == []
    renamed = {"model": "t", "server": {"url": "http://one:8000", "name": "other"}}
    changed = make_config(LEAST | SERVED | {"teacher": renamed}, "x")
    assert same_run(before, changed) == ["teacher.server.name"]
