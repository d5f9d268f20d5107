"""One thing at a time holds the memory: training, loaded models or a vLLM process."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny import write_model
from tip.stages import holder as module
from tip.stages.engines.vllm.messages import EngineFacts
from tip.stages.engines.vllm.spec import EngineSpec
from tip.stages.engines.vllm.words import EngineMemoryError
from tip.stages.holder import Embedded, Holder, InVllm, Reader
from tip.stages.models.card import read_card
from tip.stages.models.settings import ModelSettings, VllmSettings
from tip.stages.models.weights import Role, Weights
from tip.storage.errors import DisagreementError, ModelError
from tip.storage.store.artifacts import Artifact

FITS = 100  # tokens that a scoring batch may have


class Process:
    """Stands for a vLLM process; runs out of memory at work where its batch is too large."""

    started: ClassVar[list["Process"]] = []
    given_ids = False

    def __init__(self, spec: EngineSpec) -> None:
        self.spec, self.closed = spec, False
        self.started.append(self)
        batch = spec.batch_tokens or 256
        self.facts = EngineFacts("0", 36, 128, batch, self.given_ids)
        self.vocabulary = 36

    def score(self, *_: Any) -> list[Any]:
        if self.facts.batch_tokens > FITS:
            raise EngineMemoryError("too little memory")
        return []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    monkeypatch.setattr(Process, "started", [])
    monkeypatch.setattr(module, "VllmEngine", Process)
    return Process


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [write_model(tmp_path_factory.mktemp("m") / str(n), seed=n) for n in range(3)]


def weights(folder: Path, role: Role = "student", **vllm: Any) -> Weights:
    card = read_card(ModelSettings(model=str(folder)))
    return Weights(role, card, card.fingerprint, "float32", VllmSettings(**vllm))


def nowhere(_: Any) -> Path:
    raise AssertionError("nothing here is a checkpoint")


def holder(at_once: Any = 2) -> Holder:
    return Holder(torch.device("cpu"), at_once=at_once, folder_of=nowhere, say=lambda _: None)


def spec(folder: Path, **changes: Any) -> EngineSpec:
    return EngineSpec(folder, "float32", "cpu", 128, 64, 8, 36, **changes)


def in_vllm(folder: Path) -> InVllm:
    return InVllm(weights(folder), spec(folder), ((2, 3, 4),))


def test_a_model_is_loaded_once_and_another_of_its_role_takes_its_place(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, loaded = module.load_model, []

    def load(card: Any, *arguments: Any, **more: Any) -> Any:
        loaded.append(card.folder)
        return real(card, *arguments, **more)

    monkeypatch.setattr(module, "load_model", load)
    held = holder()
    one, two = (weights(folder) for folder in folders[:2])
    teacher = weights(folders[2], "teacher")
    assert held.model(one) is held.model(one)
    held.model(teacher)
    held.model(two)
    held.model(teacher)
    assert loaded == [folders[0], folders[2], folders[1]]
    held.model(one)
    assert loaded[-1] == folders[0]


def test_the_files_of_a_checkpoint_are_found_when_it_is_loaded(
    folders: list[Path], process: type[Process]
) -> None:
    first = weights(folders[0])
    artifact = Artifact("checkpoint", "0" * 16, {}, {}, {}, "0" * 64, "0" * 32)
    card = replace(first.card, folder=Path("checkpoint", artifact.key))
    trained = replace(first, card=card, checkpoint=artifact)
    asked: list[Weights] = []

    def folder_of(wanted: Weights) -> Path:
        asked.append(wanted)
        return folders[1]

    held = Holder(torch.device("cpu"), at_once=2, folder_of=folder_of, say=lambda _: None)
    assert held.model(trained).card.folder == folders[1]
    held.model(trained)
    assert asked == [trained]
    named = InVllm(trained, spec(card.folder), ((2, 3, 4),))
    held.generator(named, lambda _: None)
    assert process.started[0].spec.folder == folders[1]


def test_where_models_take_turns_one_leaves_before_the_other_comes(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, real, beside = holder(at_once=1), module.load_model, []

    def load(*arguments: Any, **more: Any) -> Any:
        beside.append(sorted(held._models))
        return real(*arguments, **more)

    monkeypatch.setattr(module, "load_model", load)
    held.model(weights(folders[0]))
    held.model(weights(folders[2], "teacher"))
    assert beside == [[], []]


def test_memory_is_given_back_before_a_model_is_loaded_and_not_for_every_shard(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, given = holder(at_once=1), []
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: given.append(True))
    for _ in range(3):
        held.model(weights(folders[2], "teacher"))
    assert len(given) == 1
    held.model(weights(folders[0]))
    assert len(given) == 2


def test_training_begins_when_nothing_else_holds_memory(
    folders: list[Path], process: type[Process]
) -> None:
    held = holder()
    held.generator(in_vllm(folders[0]), lambda _: None)
    held.trainee(weights(folders[0]))
    assert process.started[0].closed
    assert not held._models


def test_releasing_empties_a_gpus_cache_even_where_no_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    held = Holder(torch.device("cuda"), at_once=2, folder_of=nowhere, say=lambda _: None)
    held.release()
    assert emptied == [True]


def test_a_vllm_process_starts_alone_and_ends_before_a_model_is_loaded(
    folders: list[Path], process: type[Process]
) -> None:
    held = holder()
    held.model(weights(folders[0]))
    engine = held.generator(in_vllm(folders[0]), lambda _: None)
    assert not held._models
    assert held.generator(in_vllm(folders[0]), lambda _: None).engine is engine.engine
    held.model(weights(folders[2], "teacher"))
    assert process.started[0].closed


def test_a_gap_belongs_to_the_engine_that_it_was_measured_on(
    folders: list[Path], process: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holder()
    gap = module.EngineGap(mean=1e-5, rms=2e-5, tokens=7)
    monkeypatch.setattr(module, "measured_gap", lambda *_: gap)
    assert held.generator(in_vllm(folders[0]), lambda _: np.zeros(2)).gap == gap
    assert held.generator(Embedded(weights(folders[0]), 8), lambda _: None).gap is None


def test_a_gross_gap_closes_the_process_and_is_refused(
    folders: list[Path], process: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    gap = module.EngineGap(mean=1.0, rms=2.0, tokens=7)
    monkeypatch.setattr(module, "measured_gap", lambda *_: gap)
    with pytest.raises(DisagreementError, match="vLLM's log-probs differ"):
        holder().generator(in_vllm(folders[0]), lambda _: np.zeros(2))
    assert process.started[0].closed


def test_a_scoring_batch_that_fits_is_kept_for_the_rounds_to_come(
    folders: list[Path], process: type[Process]
) -> None:
    held = holder()
    reader = Reader(weights(folders[2], "teacher"), spec(folders[2], scoring=True), 4, False)
    for _ in range(2):
        held.scorer(reader).score([np.array([2, 3])], [1], 1)
        held.release()  # as the student's scoring does
    assert [p.spec.batch_tokens for p in process.started] == [None, 128, 64, 64]


def test_a_scorer_that_starts_itself_again_with_less_stays(
    folders: list[Path], process: type[Process]
) -> None:
    said: list[str] = []
    held = Holder(torch.device("cpu"), at_once=2, folder_of=nowhere, say=said.append)
    reader = Reader(weights(folders[2], "teacher"), spec(folders[2], scoring=True), 4, False)
    scorer = held.scorer(reader)
    scorer.score([np.array([2, 3])], [1], 1)
    assert len(process.started) == 3
    assert held.scorer(reader) is scorer
    assert len([text for text in said if "cannot be asked for given ids" in text]) == 1


def test_another_runner_than_the_one_in_the_key_is_refused(
    folders: list[Path], process: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, on_gpu = (
        Reader(weights(folders[2], "teacher"), spec(folders[2], scoring=True), 4, given)
        for given in (False, True)
    )
    with pytest.raises(ModelError, match="set VLLM_USE_V2_MODEL_RUNNER=1"):
        holder().scorer(on_gpu)
    monkeypatch.setattr(process, "given_ids", True)
    with pytest.raises(ModelError, match="take VLLM_USE_V2_MODEL_RUNNER out"):
        holder().scorer(on_cpu)
    assert holder().scorer(on_gpu).given_ids


def test_a_verifier_stays_from_shard_to_shard_and_ends_with_the_holder() -> None:
    held = holder()
    exact = held.verifier("exact", 1.0)
    assert held.verifier("exact", 1.0) is exact
    assert held.verifier("exact", 2.0) is not exact
    held.close()
    assert held.verifier("exact", 2.0) is not exact
