"""Scores are what a plain float64 computation over whole logits gives, row by row.

Tolerances: models run in float32, whose log-probs of these tiny models are right to 2e-5 nats;
stored teacher log-probs are rounded to float16, 2^-11 of their size.
"""

import math
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from devices import given
from reference_ier import ratio_bounds
from tiny import STOP, Shard, load, log_probs, prompts, score_settings, shard, write_model
from tip.stages.arrays import chunks
from tip.stages.arrays.coming import ComingColumns
from tip.stages.models.head import Head
from tip.stages.models.language_model import LanguageModel
from tip.stages.score import joint as score
from tip.stages.score.agreement import agreement
from tip.stages.score.joint import score_joint
from tip.stages.score.separate import score_student, score_teacher
from tip.storage.columns import TEACHER, TOKENS, schema
from tip.storage.errors import DisagreementError, ModelError, NumericsError, StoreError
from tip.storage.facts import TeacherFacts, TokensFacts
from tip.storage.tables import read_table, write_table

NATS = {"rtol": 2e-5, "atol": 3e-5}
FLOAT16_STEP = 2.0**-11
DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "hellinger")
LENGTHS = (5, 2, 9, 3)

Tables = tuple[pa.Table, pa.Table, TeacherFacts, TokensFacts]


@pytest.fixture(scope="module", autouse=True)
def there(device: torch.device) -> Iterator[None]:
    with given(device, globals(), "load"):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Rollouts of an untied Qwen3 under a tied Llama whose head has six rows more."""
    student = write_model(tmp_path_factory.mktemp("student"), "qwen3", seed=1)
    teacher = write_model(
        tmp_path_factory.mktemp("teacher"), "llama", seed=2, vocabulary=66, words=60, tied=True
    )
    return shard(student, teacher, prompts(*LENGTHS), samples=2, max_tokens=10, stop_ids=(1, 2, 3))


@pytest.fixture(scope="module")
def models(made: Shard, device: torch.device) -> tuple[LanguageModel, LanguageModel]:
    return load(made.student, device=device), load(made.teacher, device=device)


@pytest.fixture(scope="module")
def scored(made: Shard, models: tuple[LanguageModel, LanguageModel]) -> Tables:
    return score_joint(*models, made.rollouts, score_settings(batch_tokens=40))


def positions(made: Shard) -> list[tuple[str, list[int], list[int], int]]:
    """Return (prompt hash, prompt, response, position) of every row that the tables must have."""
    return [(h, p, r, t) for h, p, r in made.rows() for t in range(len(r))]


def expected_features(log_p: np.ndarray, log_q: np.ndarray, token: int, ids: list[int]) -> dict:
    """Return the features of one token, from log-probs of both models in float64."""
    p, q, common = np.exp(log_p), np.exp(log_q), min(len(log_p), len(log_q))
    a, b, log_a, log_b = p[:common], q[:common], log_p[:common], log_q[:common]
    log_m = np.log((a + b) / 2)
    return {
        "student_entropy": -(p * log_p).sum(),
        "teacher_entropy": -(q * log_q).sum(),
        "reverse_kl": (a * (log_a - log_b)).sum(),
        "forward_kl": (b * (log_b - log_a)).sum(),
        "jsd": 0.5 * (a * (log_a - log_m)).sum() + 0.5 * (b * (log_b - log_m)).sum(),
        "hellinger": math.sqrt(0.5 * ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()),
        "student_logprob": log_p[token],
        "teacher_logprob": log_q[token],
        "teacher_rank": int((log_q > log_q[token]).sum()),
        "student_mass": p[ids].sum(),
        "teacher_mass": q[ids].sum(),
        "teacher_mass_top": q[np.argsort(-log_p[:common])[:16]].sum(),
        "overlap": _overlap(log_a, log_q),
    }


def _overlap(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Return the share of the student's 16 that is no less probable than the teacher's last one."""
    top, last = np.argsort(-log_p)[:16], np.sort(log_q)[-16:][0]
    return float((log_q[top] >= last).mean())


def assert_signal_to_noise(found: float, log_p: np.ndarray, log_q: np.ndarray) -> None:
    """Is the ratio what log-probs over the support give that are right to 2e-5 nats?"""
    low, high = ratio_bounds(log_p, log_q, NATS["atol"] + NATS["rtol"] * np.abs(log_p).max())
    assert low <= found <= high


def smallest_set(log_probs: np.ndarray, top_p: float, most: int) -> set[int]:
    chosen: list[int] = []
    for i in np.argsort(-log_probs):
        if len(chosen) == most or np.exp(log_probs[chosen]).sum() >= top_p:
            break
        chosen.append(int(i))
    return set(chosen)


def assert_scores(
    made: Shard, teacher: pa.Table, tokens: pa.Table, teacher_prompts: dict | None = None
) -> None:
    """Compare every column of both tables with a reference of one position at a time."""
    signals, features, row = teacher.to_pylist(), tokens.to_pylist(), 0
    rollouts = made.rollouts.to_pylist()
    for rollout in rollouts:
        shown = rollout["prompt_ids"]
        response = rollout["response_ids"]
        student = log_probs(made.student, shown, response)
        theirs = (teacher_prompts or {}).get(rollout["prompt_hash"], shown)
        others = log_probs(made.teacher, theirs, response)
        tops = np.split(rollout["top_ids"], np.cumsum(rollout["top_counts"]))
        for t, token in enumerate(response):
            signal, found = signals[row], features[row]
            for table in (signal, found):
                assert (table["rollout"], table["position"]) == (rollout["rollout"], t)
            best = smallest_set(others[t], 0.9, 8)
            ids = sorted(i for i in {token, *tops[t].tolist(), *best} if i < 60)
            assert signal["ids"] == ids
            np.testing.assert_allclose(
                signal["logprobs"], others[t][ids], rtol=FLOAT16_STEP, atol=NATS["atol"]
            )
            outside = np.delete(others[t], ids)
            np.testing.assert_allclose(signal["tail"], np.log(np.exp(outside).sum()), **NATS)
            assert found["token"] == token
            assert found["special"] == (token in (0, STOP))
            assert found["trainable"] is True
            for name, value in expected_features(student[t], others[t], token, ids).items():
                np.testing.assert_allclose(found[name], value, err_msg=f"{name} {row}", **NATS)
            assert_signal_to_noise(found["signal_to_noise"], student[t][ids], others[t][ids])
            np.testing.assert_allclose(found["drift"], 0, atol=NATS["atol"])
            np.testing.assert_allclose(signal["entropy"], found["teacher_entropy"], rtol=1e-6)
            row += 1
    assert row == len(signals) == len(features)


def test_every_column_is_what_whole_logits_in_float64_give(made: Shard, scored: Tables) -> None:
    assert_scores(made, *scored[:2])


def test_first_choices_agree_where_those_of_whole_logits_do(made: Shard, scored: Tables) -> None:
    expected = [
        int(ours.argmax()) == int(theirs.argmax())
        for _, shown, response in made.rows()
        for ours, theirs in zip(
            log_probs(made.student, shown, response),
            log_probs(made.teacher, shown, response),
            strict=True,
        )
    ]
    assert agreement(made.rollouts, scored[0]).tolist() == expected
    # beside itself a model always agrees: its own first choice is in its support
    itself = score_joint(load(made.student), load(made.student), made.rollouts, score_settings())
    assert agreement(made.rollouts, itself[0]).all()


def test_the_tables_have_their_schema_and_can_be_stored(scored: Tables, tmp_path: Path) -> None:
    for table, columns in zip(scored[:2], (TEACHER, TOKENS), strict=True):
        assert table.schema == schema(columns)
        write_table(tmp_path / "table.parquet", table, columns)


def test_a_teacher_with_a_prompt_of_its_own_is_scored_behind_that_prompt(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    own = {p.hash: (*p.ids, 7, 8, 9, 10, 11)[i:] for i, p in enumerate(made.prompts)}
    teacher, tokens, facts, _ = score_joint(
        *models, made.rollouts, score_settings(), teacher_prompts=own
    )
    assert_scores(made, teacher, tokens, own)
    assert facts.teacher_check_gap < 1e-4
    own = {p.hash: (*own[p.hash], *[3] * 15) for p in made.prompts}
    seen: list[int] = []
    note = models[1].model.base_model.register_forward_pre_hook(
        lambda _module, _inputs, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    settings = score_settings(batch_tokens=60, check_rows=0)
    _, _, facts, _ = score_joint(*models, made.rollouts, settings, teacher_prompts=own)
    note.remove()
    assert max(seen) <= 60, "the budget counts the longer of both prompts"
    read = sum(2 * len(ids) for ids in own.values()) + sum(len(r) for _, _, r in made.rows())
    assert facts.teacher_tokens == read


@pytest.mark.parametrize(
    "cut",
    [{"batch_tokens": 1}, {"batch_tokens": 9}, {"chunk_elements": 1}, {"chunk_elements": 200}],
)
@pytest.mark.parametrize("piece_elements", [100, 1 << 20])
def test_budget_chunk_and_piece_change_nothing_beyond_rounding(
    made: Shard,
    models: tuple[LanguageModel, LanguageModel],
    scored: Tables,
    cut: dict[str, int],
    piece_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "_CACHE_ELEMENTS", piece_elements)
    teacher, tokens, *_ = score_joint(*models, made.rollouts, score_settings(**cut))
    assert teacher["ids"].equals(scored[0]["ids"])
    for name in tokens.column_names:
        a, b = tokens[name].to_numpy(), scored[1][name].to_numpy()
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=5e-6, err_msg=name)


def test_facts_count_tokens_entries_and_masses(made: Shard, scored: Tables) -> None:
    teacher, tokens, of_teacher, facts = scored
    assert facts.tokens == tokens.num_rows == len(positions(made))
    assert of_teacher.entries == sum(len(ids) for ids in teacher["ids"].to_pylist())
    for name in ("student_mass", "teacher_mass", "reverse_kl"):
        assert getattr(facts, name) == pytest.approx(np.mean(tokens[name].to_numpy()), rel=1e-6)
    for gap in (facts.student_check_gap, of_teacher.teacher_check_gap, facts.sampling_gap_rms):
        assert 0 <= gap < 1e-4
    assert facts.off_policy_kl == pytest.approx(0, abs=1e-7)


def test_progress_counts_every_token_once(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    done: list[int] = []
    score_joint(*models, made.rollouts, score_settings(batch_tokens=30), tick=done.append)
    assert sum(done) == len(positions(made))
    assert len(done) > 2


def test_no_number_goes_to_the_host_before_the_last_chunk_of_a_batch_is_under_way(
    made: Shard, models: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy within the chunks would make a GPU stand still at each of them."""
    done: list[str] = []

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: [done.append(name), work(*args, **kwargs)][1]

    monkeypatch.setattr(Head, "logits", noted("product", Head.logits))
    monkeypatch.setattr(ComingColumns, "__init__", noted("copy", ComingColumns.__init__))
    settings = score_settings(chunk_elements=300, check_rows=0)
    signals, *_ = score_joint(*models, made.rollouts, settings)
    score_teacher(models[1], made.rollouts, settings, student_vocabulary=60)
    score_student(models[0], made.rollouts, signals, settings)
    passes = [name for name, _ in groupby(done)]
    assert passes == ["product", "copy"] * 3
    assert done.count("product") > 3 * len(passes), "chunks"


def test_a_teacher_that_is_the_student_has_divergences_of_exactly_zero(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    _, tokens, *_ = score_joint(models[0], models[0], made.rollouts, score_settings())
    for name in DIVERGENCES:
        assert not tokens[name].to_numpy().any(), name


def test_tool_tokens_are_scored_and_marked(
    made: Shard, models: tuple[LanguageModel, LanguageModel], scored: Tables
) -> None:
    flags = [[i % 3 > 0 for i in range(len(r))] for _, _, r in made.rows()]
    place = made.rollouts.column_names.index("trainable")
    field = made.rollouts.schema.field("trainable")
    rollouts = made.rollouts.set_column(place, field, pa.array(flags, field.type))
    _, tokens, *_ = score_joint(*models, rollouts, score_settings(batch_tokens=40))
    assert tokens["trainable"].to_pylist() == [flag for row in flags for flag in row]
    assert tokens.drop(["trainable"]).equals(scored[1].drop(["trainable"]))


def test_the_whole_vocabulary_as_support_has_no_tail(made: Shard) -> None:
    student = load(made.student)
    settings = score_settings(teacher_top_p=1.0, teacher_top_max=60)
    teacher, tokens, *_ = score_joint(student, student, made.rollouts, settings)
    assert teacher["tail"].null_count == teacher.num_rows
    assert set(map(len, teacher["ids"].to_pylist())) == {60}
    assert tokens["teacher_mass"].to_numpy().min() > 1 - 1e-6


@pytest.mark.parametrize("kind", ["shifted", "foreign"])
def test_misaligned_log_probs_are_caught_by_the_second_scoring(
    made: Shard,
    models: tuple[LanguageModel, LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    honest = score.predicting_states

    def misaligned(model: LanguageModel, *rest: Any) -> torch.Tensor:
        states = honest(model, *rest)
        return states.roll(1, 0) if kind == "shifted" else states.flip(0)

    monkeypatch.setattr(score, "predicting_states", misaligned)
    with pytest.raises(DisagreementError, match=r"log-probs of sampled tokens differ by") as it:
        score_joint(*models, made.rollouts, score_settings())
    assert "\n" not in str(it.value)


def test_no_second_scoring_is_made_where_none_is_wanted(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    _, _, facts, _ = score_joint(*models, made.rollouts, score_settings(check_rows=0))
    assert facts.teacher_check_gap == 0


def test_a_weight_that_is_not_a_number_is_refused_with_rollout_and_position(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    rows = made.rows()
    seen = set().union(*(set(ids) | set(response) for _, ids, response in rows))
    unseen = next(i for i in range(60) if i not in seen)
    # One rollout reads the bad embedding, as the last token of its prompt: all its numbers are bad.
    shown = [[*ids[:-1], unseen] if row == 3 else ids for row, (_, ids, _) in enumerate(rows)]
    place = made.rollouts.column_names.index("prompt_ids")
    field = made.rollouts.schema.field("prompt_ids")
    rollouts = made.rollouts.set_column(place, field, pa.array(shown, field.type))
    bad = load(made.student)
    with torch.no_grad():
        bad.model.base_model.embed_tokens.weight[unseen, 3] = float("nan")
    with pytest.raises(NumericsError) as it:
        score_joint(bad, models[1], rollouts, score_settings())
    assert f"at position 0 of rollout {rollouts['rollout'][3].as_py()} " in str(it.value)
    assert f"({len(rows[3][2])} such tokens" in str(it.value)
    assert "\n" not in str(it.value)


def test_a_token_that_the_teacher_does_not_have_is_refused(
    made: Shard, models: tuple[LanguageModel, LanguageModel], tmp_path: Path
) -> None:
    small = load(write_model(tmp_path, "llama", vocabulary=20))
    with pytest.raises(ModelError, match=r"which the teacher does not have .*20 rows") as it:
        score_joint(models[0], small, made.rollouts, score_settings())
    assert "\n" not in str(it.value)
    with pytest.raises(ModelError, match="which the student does not have"):
        score_joint(small, models[1], made.rollouts, score_settings())


def replayed(made: Shard, student: LanguageModel, teacher: pa.Table) -> tuple[pa.Table, dict]:
    return score_student(student, made.rollouts, teacher, score_settings(batch_tokens=40))


def stored(table: pa.Table, path: Path) -> pa.Table:
    """Return a teacher table as another run reads it."""
    write_table(path / "teacher.parquet", table, TEACHER)
    return read_table([path / "teacher.parquet"])


def test_another_student_is_scored_from_stored_signals_without_a_teacher(
    made: Shard, models: tuple[LanguageModel, LanguageModel], scored: Tables, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", "qwen3", seed=1, rms_norm_eps=0.5)
    tokens, facts = replayed(made, load(other), stored(scored[0], tmp_path))
    assert tokens.schema == schema(TOKENS)
    signals, found, row = scored[0].to_pylist(), tokens.to_pylist(), 0
    rollouts = made.rollouts.to_pylist()
    for (_, ids, response), rollout in zip(made.rows(), rollouts, strict=True):
        student = log_probs(other, ids, response)
        for t, token in enumerate(response):
            support, log_q = signals[row]["ids"], np.array(signals[row]["logprobs"], np.float64)
            log_p = np.append(
                student[t][support], np.log(np.exp(np.delete(student[t], support)).sum())
            )
            log_q = np.append(log_q, signals[row]["tail"])
            here = support.index(token)
            expected = expected_features(log_p, log_q, here, list(range(len(support)))) | {
                "student_entropy": -(np.exp(student[t]) * student[t]).sum(),
                "teacher_entropy": signals[row]["entropy"],
                "teacher_rank": int((log_q[:-1] > log_q[here]).sum()),
                "teacher_mass_top": np.exp(log_q[np.argsort(-log_p[:-1])[:16]]).sum(),
                "overlap": _overlap(log_p[:-1], log_q[:-1]),
                "drift": student[t][token] - rollout["logprobs"][t],
            }
            for name, value in expected.items():
                np.testing.assert_allclose(found[row][name], value, err_msg=name, **NATS)
            assert_signal_to_noise(found[row]["signal_to_noise"], log_p[:-1], log_q[:-1])
            row += 1
    assert row == len(found)
    assert np.abs(tokens["drift"].to_numpy()).max() > 0.1
    assert facts.off_policy_kl > 1e-3
    assert facts.student_check_gap < 1e-4


def test_scores_over_the_support_approach_the_exact_ones_as_it_grows(
    made: Shard, models: tuple[LanguageModel, LanguageModel], tmp_path: Path
) -> None:
    teacher = load(write_model(tmp_path / "teacher", "qwen2", seed=5))
    gaps = []
    for most in (0, 4, 16, 60):
        settings = score_settings(teacher_top_p=1.0, teacher_top_max=most)
        signals, exact, *_ = score_joint(models[0], teacher, made.rollouts, settings)
        found, _ = replayed(made, models[0], stored(signals, tmp_path))
        differences = (exact[n].to_numpy() - found[n].to_numpy() for n in DIVERGENCES)
        gaps.append([float(np.abs(d).mean()) for d in differences])
    for wide, close in pairwise(gaps):
        assert all(b < a for a, b in zip(wide, close, strict=True))
    assert max(gaps[-1]) < 2e-3  # what float16 leaves


def test_support_ids_beyond_another_students_head_are_refused(
    made: Shard, scored: Tables, tmp_path: Path
) -> None:
    small = load(write_model(tmp_path, "qwen3", vocabulary=20))
    with pytest.raises(ModelError, match="which the student does not have"):
        replayed(made, small, scored[0])


def test_signals_of_other_rollouts_are_refused(
    models: tuple[LanguageModel, LanguageModel], made: Shard, scored: Tables
) -> None:
    signals = scored[0]
    for other in (signals.slice(1), signals.take(pa.array(np.arange(signals.num_rows)[::-1]))):
        with pytest.raises(StoreError, match="not those of these rollouts"):
            replayed(made, models[0], other)


def test_a_sampled_support_holds_shares_of_what_was_drawn_from_the_teacher(
    made: Shard, models: tuple[LanguageModel, LanguageModel], scored: Tables
) -> None:
    settings = score_settings(support="sampled", draws=25, batch_tokens=40)
    signals, tokens, facts, _ = score_joint(*models, made.rollouts, settings)
    near, rows = 0.0, 0
    for (_, ids, response, t), row in zip(positions(made), signals.to_pylist(), strict=True):
        q = np.exp(log_probs(made.teacher, ids, response)[t])
        share = np.exp(np.array(row["logprobs"], dtype=float))
        assert row["ids"] == sorted(set(row["ids"]))
        assert max(row["ids"]) < 60
        np.testing.assert_allclose(share * 25, np.round(share * 25), atol=0.03)
        lost = 0.0 if row["tail"] == -65504 else math.exp(row["tail"])
        assert share.sum() + lost == pytest.approx(1, abs=2e-3)
        drawn = np.zeros(len(q))
        drawn[row["ids"]] = share
        near += (((drawn - q)[:60]) ** 2).sum() - (q[:60] * (1 - q[:60])).sum() / 25
        rows += 1
    # the shares' variance is q (1 - q) / 25 as of 25 fair draws; 4 standard deviations were 0.02
    assert abs(near / rows) < 0.02
    assert facts.entries == sum(map(len, signals["ids"].to_pylist()))
    # the numbers of a token are those of whole distributions and of both models' top ids, whatever
    # is stored
    for name in (*DIVERGENCES, "overlap", "signal_to_noise"):
        np.testing.assert_allclose(tokens[name].to_numpy(), scored[1][name].to_numpy(), **NATS)


def test_what_is_drawn_depends_on_no_batch(
    made: Shard, models: tuple[LanguageModel, LanguageModel]
) -> None:
    tables = [
        score_joint(*models, made.rollouts, score_settings(support="sampled", batch_tokens=size))[0]
        for size in (12, 400)
    ]
    assert tables[0]["ids"].equals(tables[1]["ids"])
    alone, _ = score_teacher(
        models[1], made.rollouts, score_settings(support="sampled"), student_vocabulary=60
    )
    assert alone["ids"].equals(tables[0]["ids"])
