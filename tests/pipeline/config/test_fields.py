"""Every setting has decided what it is to keys: in its stage's, through what it stands for, or not.

A field added without a decision, or with the wrong one, fails here: stores would be orphaned, or
worse, one key would mean two things.
"""

import copy
import types
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import make_config
from tip.stages.evaluate.evaluate import evaluate_inputs
from tip.stages.models.card import ModelCard
from tip.stages.models.settings import ModelSettings
from tip.stages.models.weights import Weights
from tip.stages.prompts.render import Prompt
from tip.stages.rollout.rollout import rollout_inputs, sampling_of
from tip.stages.score.keys import engine_teacher_inputs, teacher_inputs
from tip.stages.select.select import selection_inputs
from tip.stages.settings import BY_CONTENT, NOT_IN_KEY, Mark, Settings
from tip.stages.train.schedule import learning_rates
from tip.stages.train.train import train_inputs

BASE: dict[str, Any] = {
    "train": {"tail": True},  # a run decides what `auto` is before it has a key
    "name": "base",
    "student": {"model": "a/student"},
    "teacher": {"model": "a/teacher"},
    "prompts": {"source": "a.jsonl"},
    "select": {"rule": "soft_or_sampled"},
    "evaluate": {"source": "b.jsonl", "temperature": 0.5},
}
SERVER: dict[str, Any] = {
    "score": {"mode": "separate", "engine": "server"},
    "teacher": {"server": {"url": "http://a", "name": "a"}},
}
# Where another value needs more than the field's type says: (changes to both sides, the value).
SPECIAL: dict[str, tuple[dict[str, Any], Any]] = {
    "score.engine": ({"score": {"mode": "separate"}}, "vllm"),
    "score.engine_top": ({"score": {"mode": "separate", "engine": "vllm"}}, 7),
    "score.support": ({"train": {"loss": "forward_kl"}}, "sampled"),
    "teacher.server": (SERVER, None),
    "rollout.replay": ({}, "another"),
    "rollout.stop_ids": ({}, [7]),
    "evaluate.stop_ids": ({}, [7]),
    "train.betas": ({}, [0.5, 0.6]),
    "train.tail": ({}, "residual"),
    "train.horizon": ({}, 77),
    "train.lora": ({"train": {"lora": {"rank": 4}}}, None),
    "train.lora.rank": ({"train": {"lora": {}}}, 4),
    "train.lora.alpha": ({"train": {"lora": {}}}, 4.0),
    "train.lora.targets": ({"train": {"lora": {}}}, ["q_proj"]),
    "train.lora.dropout": ({"train": {"lora": {}}}, 0.5),
    "train.lora.bits": ({"train": {"lora": {}}}, 4),
    "select.where": ({}, "position > 1"),
    "select.rollout_weight": ({}, "length"),
    "select.params": ({"select": {"rule": "soft_or_clipped"}}, {"percentile": 0.5}),
    "select.scope": ({}, "round"),
    "prompts.chat_kwargs": ({}, {"x": 1}),
    "evaluate.chat_kwargs": ({}, {"x": 1}),
    "prompts.add_special_tokens": ({"prompts": {"template": "raw"}}, False),
    "evaluate.add_special_tokens": ({"evaluate": {"template": "raw"}}, False),
    "prompts.date": ({}, "2025-01-31"),
    "evaluate.date": ({}, "2025-01-31"),
    "prompts.format": ({}, "{other}"),
    "evaluate.format": ({}, "{other}"),
    "device": ({}, "cpu"),
    "workers.address": ({}, "auto"),
    "track.to": ({}, ["mlflow"]),
    "select.rule": ({}, "entropy_sampled"),
    "student.vllm.enforce_eager": ({}, True),
    "teacher.vllm.enforce_eager": ({}, True),
}
STOP = (1,)
OPTIONAL = ("teacher.server", "train.lora")  # sections that may be missing


def leaves(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, list[Mark | None], Any]]:
    """Yield dotted key, marks from the outermost section inwards, and type of every field."""
    for name, field in kind.model_fields.items():
        inner = section(field.annotation)
        if inner is None:
            yield f"{prefix}{name}", [kind.mark(name)], field.annotation
            continue
        if prefix + name in OPTIONAL:
            yield f"{prefix}{name}", [kind.mark(name)], field.annotation
        for key, marks, annotation in leaves(inner, f"{prefix}{name}."):
            yield key, [kind.mark(name), *marks], annotation


def section(annotation: Any) -> type[Settings] | None:
    kinds = [k for k in (annotation, *get_args(annotation)) if isinstance(k, type)]
    return next((k for k in kinds if issubclass(k, Settings)), None)


FIELDS = {key: (marks, annotation) for key, marks, annotation in leaves(RunConfig)}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(values)
    for key, value in changes.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def both(key: str) -> tuple[RunConfig, RunConfig]:
    """Return two configs that differ in one field."""
    extra, value = SPECIAL.get(key, (SERVER if key.startswith("teacher.server.") else {}, ...))
    values = merged(BASE, extra)
    before = make_config(values, "before")
    if value is ...:
        value = other(getattr_dotted(before, key), FIELDS[key][1])
    *sections, last = key.split(".")
    after = copy.deepcopy(values)
    place = after
    for part in sections:
        place = place.setdefault(part, {})
    place[last] = value
    if key == "teacher.server":
        after["score"] = {"mode": "separate"}
    return before, make_config(after, "after")


def getattr_dotted(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def other(value: Any, annotation: Any) -> Any:
    """Return another value that the type allows."""
    options = [annotation, *get_args(annotation)] if union(annotation) else [annotation]
    for kind in options:
        if get_origin(kind) is Literal:
            return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, str):
        return f"{value}x"
    assert value is None, f"say another value in SPECIAL: {annotation}"
    names = " ".join(map(str, options))
    return 3 if "int" in names else 0.5 if "float" in names else "text"


def union(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) or len(get_args(annotation)) > 1


def inputs(config: RunConfig) -> list[Any]:
    """Return the inputs of all stages, as far as settings decide them."""
    prompts = [Prompt((1, 2), "a" * 16, (1, 2), "7", 1)]
    rollout, evaluate, score = config.rollout, config.evaluate, config.score
    assert evaluate is not None
    rates = (0.1,)  # resolved
    return [
        rollout_inputs("s", "d", prompts, rollout, sampling_of(rollout, STOP, config.seed)),
        evaluate_inputs("s", "d", prompts, evaluate, sampling_of(evaluate, STOP, config.seed)),
        teacher_inputs("t", "d", ("k", "c"), None, score),
        selection_inputs(config.select, [], seed=config.seed, vocabulary=36),
        train_inputs("s", ("k", "c"), [], config.train, "d", rates, config.seed),
    ]


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_is_in_its_stages_key_or_marked(key: str) -> None:
    marks, _ = FIELDS[key]
    before, after = both(key)
    named, changed = (
        same_run(before.model_dump(mode="json"), after),
        inputs(before) != inputs(after),
    )
    in_run = NOT_IN_KEY not in marks
    assert bool(named) == in_run, f"{key}: same_run names {named}"
    if marks[-1] is None and marks[0] is not BY_CONTENT:
        assert changed, f"{key} is unmarked, but in no stage's inputs"
    elif marks[-1] is NOT_IN_KEY:
        assert not changed, f"{key} is marked {marks[-1].name}, but changes a stage's inputs"
    if in_run and key not in OPTIONAL:
        assert named[0].startswith(key)


def test_a_field_that_stands_for_something_reaches_its_key_through_it() -> None:
    card = ModelCard("f", "f", (), (), 8, 8, "f")  # type: ignore[arg-type]

    def compute(**vllm: Any) -> str:
        settings = ModelSettings.model_validate({"model": "m", "vllm": vllm})
        return Weights("student", card, "f", "bfloat16", settings.vllm).compute("vllm")

    assert len({compute(), compute(quantization="fp8"), compute(kv_cache_dtype="fp8")}) == 3
    train = make_config(BASE, "base").train
    for change in ({"lr": 1.0}, {"warmup_steps": 0}, {"schedule": "linear"}, {"min_lr_frac": 0.5}):
        moved = train.model_copy(update=change)
        assert learning_rates(moved, 20, 0, 20) != learning_rates(train, 20, 0, 20), change
    assert learning_rates(train, 30, 0, 20) != learning_rates(train, 20, 0, 20)
    score = make_config(merged(BASE, {"score": {"mode": "separate", "engine": "vllm"}}), "b").score
    engine = [
        engine_teacher_inputs("t", "d", ("k", "c"), None, s, given_ids=given)
        for s in (score, score.model_copy(update={"engine_top": 9}))
        for given in (True, False)
    ]
    assert len({str(value) for value in engine}) == 4
    assert str(teacher_inputs("t", "d", ("k", "c"), None, score)) not in map(str, engine)


def test_key_and_identity_are_nested_and_plain() -> None:
    config = make_config(BASE, "base")
    assert "model" not in config.student.key()
    assert config.identity()["student"]["model"] == "a/student"
    assert "memory" not in config.identity()["student"]["vllm"]
    assert config.identity()["train"]["betas"] == [0.9, 0.999]
    assert "batch_tokens" not in config.identity()["train"]
