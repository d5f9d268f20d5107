"""Which engine generates or scores is a value, large enough for all that it will be asked."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tip.pipeline import session as session_module
from tip.pipeline.rounds.generators import check_room, generator_of, probes_of, reader_of
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.session import Session, look_at, open_session
from tip.stages.engines.probe import probe_key
from tip.stages.holder import Embedded, InVllm, Reader, Served, as_arrays
from tip.storage.errors import ConfigError
from tip.storage.facts import CheckpointFacts

from ..conftest import MakeConfig

VLLM: dict[str, Any] = {"rollout": {"engine": "vllm", "batch_size": 8}}


def longest(session: Session) -> int:
    return max(len(prompt.ids) for prompt in session.inputs.everything_asked())


def test_where_no_vllm_generates_nothing_is_probed(config: MakeConfig) -> None:
    session = look_at(config(rollout={"batch_size": 8}))
    student = session.student(0)
    assert generator_of(session, student, session.config.rollout) == Embedded(student, 8)
    assert probes_of(session) == ()
    assert reader_of(session) is None


def test_on_a_gpu_a_batch_takes_rows_of_as_many_shards_as_fill_it(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = look_at(config(rollout={"batch_size": 100, "prompts": 160}))
    parts, student = session.inputs.round_shards(0), session.student(0)
    assert [len(work.shards) for work in rollout_works(session, student, parts)] == [1] * 5
    monkeypatch.setattr(session_module, "resolve_device", lambda _: torch.device("cuda"))
    works = rollout_works(session, student, parts)
    assert [len(work.shards) for work in works] == [3, 2]
    assert [shard for work in works for shard in work.shards] == list(parts)


def test_one_vllm_process_has_room_for_rollouts_and_evaluations_alike(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    evaluate = asked | {"engine": "vllm", "max_tokens": 90, "batch_size": 16}
    session = look_at(config(evaluate=evaluate, **VLLM))
    sections = (session.config.rollout, session.inputs.evaluation)
    one, other = (generator_of(session, session.student(0), section) for section in sections)
    assert one == other
    assert isinstance(one, InVllm)
    assert (one.spec.longest, one.spec.rows) == (longest(session) + 90, 16)
    assert one.probes == probes_of(session) != ()


def test_a_context_that_is_set_too_short_is_refused(config: MakeConfig) -> None:
    student = {"vllm": {"max_model_len": 70}}
    session = look_at(config(student=student, **VLLM))
    said = rf"vllm.max_model_len = 70, but .* up to {longest(session) + 64} tokens"
    with pytest.raises(ConfigError, match=said):
        generator_of(session, session.student(0), session.config.rollout)
    with pytest.raises(ConfigError, match=said):
        check_room(session)


def test_a_context_of_the_teachers_that_is_set_too_short_is_refused_before_it_reads(
    config: MakeConfig,
) -> None:
    def session(room: int) -> Session:
        teacher = {"vllm": {"max_model_len": room}}
        score = {"mode": "separate", "engine": "vllm"}
        return look_at(config(teacher=teacher, score=score))

    needed = longest(session(1)) + 64 + 1  # one more, which scoring throws away
    check_room(session(needed))
    with pytest.raises(ConfigError, match=f"take up to {needed} tokens"):
        check_room(session(needed - 1))


def test_a_checkpoint_brings_what_it_knows_of_these_probes_alone(config: MakeConfig) -> None:
    session = open_session(config(**VLLM))
    probes = probes_of(session)
    for known, expected in ((probes, (-1.0, -2.0)), (probes[1:], None)):
        facts = CheckpointFacts(
            fingerprint="f",
            steps=1,
            trained_tokens=1,
            body_tokens=1,
            loss=0.0,
            losses=[0.0],
            student_mass=1.0,
            largest_gradient=0.0,
            skipped=0,
            learning_rate=0.0,
            probe={probe_key(as_arrays(known)): [-1.0, -2.0]},
        )
        inputs = {"probes": len(known)}
        made, _ = session.store.ensure("checkpoint", inputs, lambda _, f=facts: f.dump())
        student = replace(session.student(0), key=made.key, checkpoint=made)
        found = generator_of(session, student, session.config.rollout)
        assert isinstance(found, InVllm)
        assert found.reference == expected


def test_what_scores_has_room_for_a_prompt_and_its_response(config: MakeConfig) -> None:
    score = {"mode": "separate", "engine_top": 7}
    vllm = look_at(config(score=score | {"engine": "vllm"}, rollout={"student_top_max": 9}))
    reader, room = reader_of(vllm), longest(vllm) + 64
    assert isinstance(reader, Reader)
    assert (reader.top, reader.spec.top, reader.spec.longest) == (7, 9, room + 1)
    assert reader.spec.scoring
    server = {"server": {"url": "http://localhost:1"}}
    served = reader_of(look_at(config(score=score | {"engine": "server"}, teacher=server)))
    assert isinstance(served, Served)
    assert (served.top, served.needed) == (7, room)
