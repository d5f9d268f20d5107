"""The configuration of a run: TOML in, one frozen value out, every rule checked before any work.

Sections belong to the stages (`stages/settings.py`); here stands what belongs to the run as a
whole. No model and no GPU is needed to read a config.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from ..stages.settings import (
    Count,
    EvaluateSettings,
    ModelSettings,
    Natural,
    PromptSettings,
    RolloutSettings,
    ScoreSettings,
    SelectSettings,
    Settings,
    TeacherSettings,
    TrainSettings,
)
from ..storage.errors import ConfigError

# What may differ when a run is continued: how far it goes, and what only costs time or memory.
_MAY_CHANGE = frozenset({"rounds", "device", "threads", "store", "runs", "evaluate"})


class RunConfig(Settings):
    """Everything that makes a run."""

    name: str
    """Name of the run's folder under `runs`."""
    rounds: Count = 10
    """Rounds of rollout, score, select, train. More of them extend a run."""
    seed: Natural = 0
    """Seed of sampling, ties and the order of training."""
    data_seed: Natural = 0
    """Seed of the order of prompts; runs that share it share rollouts."""
    store: str = "store"
    """Folder or fsspec URL (s3://bucket/prefix) of artifacts; share it between runs."""
    runs: str = "runs"
    """Folder of run folders."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Natural = 0
    """CPU threads. 0: as many as torch chooses. Results can differ in rounding between counts."""
    student: ModelSettings
    """The model that learns."""
    teacher: TeacherSettings
    """The model that is learnt from."""
    prompts: PromptSettings
    """Prompts of the rollouts."""
    rollout: RolloutSettings = RolloutSettings()
    """Sampling of rollouts."""
    score: ScoreSettings = ScoreSettings()
    """Teacher signals."""
    select: SelectSettings = SelectSettings()
    """Selection of tokens."""
    train: TrainSettings = TrainSettings()
    """Training of the student."""
    evaluate: EvaluateSettings | None = None
    """Problems with known answers. None: no evaluation."""

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> "RunConfig":
        if (self.score.engine == "server") != (self.teacher.server is not None):
            raise ValueError(
                "score.engine = 'server' and the section [teacher.server] with its `url` go "
                f"together, but score.engine = '{self.score.engine}' and teacher.server is "
                f"{'missing' if self.teacher.server is None else 'there'}"
            )
        return self

    @model_validator(mode="after")
    def _problems_are_shown_as_they_are(self) -> "RunConfig":
        if self.teacher.format is not None and self.evaluate and self.evaluate.reverse_kl:
            raise ValueError(
                "evaluate.reverse_kl asks the teacher about problems, but teacher.format shows it "
                "more of a training prompt than the student sees: leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _one_gpu_is_not_shared_out(self) -> "RunConfig":
        for name, section in (("student", self.student), ("teacher", self.teacher)):
            count = section.vllm.tensor_parallel
            if count > 1 and ":" in self.device:
                raise ValueError(
                    f"{name}.vllm.tensor_parallel = {count} needs {count} GPUs, but device = "
                    f"'{self.device}' is one: set device = 'cuda' (CUDA_VISIBLE_DEVICES says "
                    "which), or tensor_parallel = 1"
                )
        return self

    @model_validator(mode="after")
    def _replay_is_another_run(self) -> "RunConfig":
        if self.rollout.replay == self.name:
            raise ValueError(
                f"rollout.replay = {self.name!r} names the run itself: give this run another name, "
                "or name a finished run to replay"
            )
        return self


def load_config(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Return the config of a TOML file with `key=value` changes applied.

    Raises `ConfigError` with the place of the first wrong value and what was expected there.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; see examples/ for some") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    for change in changes:
        apply_change(values, change, "--set")
    values.setdefault("name", path.stem)
    return make_config(values, str(path))


def make_config(values: dict[str, Any], where: str) -> RunConfig:
    """Return the config of plain values, or raise `ConfigError` naming `where`."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from error


def same_run(before: dict[str, Any], now: RunConfig) -> list[str]:
    """Return the dotted keys in which a run's stored config differs from the one given now.

    What only decides how far a run goes, where it runs or how fast, may differ: fields whose text
    says *Not in a key*, and the evaluation, whose results have keys of their own.
    """
    # settings that are newer than the run stand at their defaults
    known = make_config(before, "the config stored with the run").model_dump(mode="json")
    old, new = dict(_flat(known)), dict(_flat(now.model_dump(mode="json")))
    return [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key.split(".")[0] not in _MAY_CHANGE
        and not _outside_keys(key)
    ]


def _outside_keys(key: str) -> bool:
    kind: Any = RunConfig
    field = None
    for name in key.split("."):
        field = getattr(kind, "model_fields", {}).get(name)
        kind = None if field is None else _section(field.annotation)
    return field is not None and "*Not in a key*" in (field.description or "")


def apply_change(values: dict[str, Any], change: str, option: str) -> None:
    """Change plain values in place. change: `key=value`; option: the one that gave it."""
    key, equals, text = change.partition("=")
    if not equals or not re.fullmatch(r"[a-z_]+(\.[A-Za-z_]\w*)*", key.strip()):
        raise ConfigError(f"{option} {change}: expected key=value, such as train.lr=1e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{option} {change}: {section} is a value, not a section")
    values[last] = value


def _first(error: ValidationError) -> str:
    """Return the first complaint in one line: the dotted key, what is wrong, the way out."""
    about = error.errors()[0]
    key = ".".join(str(part) for part in about["loc"]) or "config"
    if about["type"] == "extra_forbidden":
        known = _fields(about["loc"][:-1])
        near = difflib.get_close_matches(str(about["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if about["type"] == "missing":
        return f"{key}: missing; it has no default"
    if about["type"] == "value_error":
        return f"{key}: {about['msg'].removeprefix('Value error, ')}"
    return f"{key} = {about['input']!r}: {about['msg'][0].lower()}{about['msg'][1:]}"


def _fields(place: Iterable[int | str]) -> list[str]:
    model: Any = RunConfig
    for part in place:
        field = model.model_fields.get(part)
        model = None if field is None else _section(field.annotation)
        if model is None:
            return []
    return sorted(model.model_fields)


def _section(annotation: Any) -> Any:
    """Return the settings class of a field's type, None for a plain value."""
    kinds = getattr(annotation, "__args__", (annotation,))
    return next((k for k in kinds if hasattr(k, "model_fields")), None)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
