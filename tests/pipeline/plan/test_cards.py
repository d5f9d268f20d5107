"""A plan for a card that need not be here: what fits, and what to change for what does not."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tip.cli import app
from tip.pipeline.config.run import RunConfig
from tip.pipeline.plan.memory import memory_of
from tip.pipeline.plan.needs import Need
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.plan.sizes import Sizes, sizes_of
from tip.pipeline.plan.target import CONTEXT, Target, card, on_card
from tip.pipeline.plan.ways import changed, ways
from tip.pipeline.session import look_at
from tip.pipeline.show.plan import _value
from tip.storage.errors import ConfigError
from typer.testing import CliRunner

from ..conftest import MakeConfig

GPU = card(24)
GIB = 1 << 30


@pytest.fixture
def sizes(config: MakeConfig) -> Sizes:
    """Return the built-in pair with a 4B student's widths (Qwen3-4B) and a teacher of 8 G."""
    found = sizes_of(look_at(config()))
    student = replace(
        found.student,
        parameters=4_022_468_096,
        vocabulary=151_936,
        hidden=2560,
        layers=36,
        heads=32,
        attention=(32 + 2 * 8) * 128,
        inner=9728,
        cache_elements=2 * 36 * 8 * 128,
        tied=True,
    )
    teacher = replace(student, parameters=8_190_735_360, hidden=4096, inner=12_288)
    return replace(found, student=student, teacher=teacher, prompt=512, shown=512)


def needs(config: RunConfig, sizes: Sizes, target: Target = GPU) -> dict[str, Need]:
    return {need.stage: need for need in memory_of(config, sizes, target)}


def large(config: MakeConfig, **sections: Any) -> RunConfig:
    return config(rollout={"max_tokens": 1536, "prompts": 32}, **sections)


def test_a_card_is_counted_by_its_name_and_leaves_room_for_its_driver() -> None:
    assert card(24).total == 24 * GIB
    assert 140 * GIB < card(141).total < 141 * GIB
    assert card(48).total - card(48).usable == CONTEXT
    assert not card(24).on_cpu


def test_on_a_card_auto_means_16_bits(config: MakeConfig, sizes: Sizes) -> None:
    asked = large(config)
    on_gpu, on_cpu = (needs(asked, sizes, t) for t in (GPU, Target("cpu", "cpu", 1, 1)))
    assert on_gpu["rollout"].least == 2 * (sizes.student.parameters or 0)
    assert on_cpu["rollout"].least == 4 * (sizes.student.parameters or 0)
    meant = on_card(asked)
    assert (meant.student.dtype, meant.teacher.dtype, meant.train.autocast) == ("bfloat16",) * 3
    assert meant.rollout == asked.rollout


def test_what_is_kept_of_each_parameter_depends_on_optimiser_and_adapters(
    config: MakeConfig, sizes: Sizes
) -> None:
    count = sizes.student.parameters or 0

    def kept(**train: Any) -> tuple[float, float, float]:
        parts = needs(large(config, train=train), sizes)["train"].parts
        assert parts is not None
        return parts.parameters / count, parts.gradients / count, parts.moments / count

    assert kept() == pytest.approx((4, 4, 8), abs=0.5)
    assert kept(optimizer="adamw8bit")[2] == pytest.approx(2 + 8 / 256)
    assert kept(optimizer="paged_adamw")[2] == 0
    lora = {"rank": 4}
    base, adapters = sizes.adapted(large(config, train={"lora": lora}).train.lora)  # type: ignore[arg-type]
    assert kept(lora=lora) == pytest.approx(
        (4 + 0 * base, 4 * adapters / count, 8 * adapters / count), abs=1e-4
    )


def test_processes_share_what_is_kept_and_gather_the_ends(config: MakeConfig, sizes: Sizes) -> None:
    def train(**settings: Any) -> Need:
        return needs(large(config, train={"batch_tokens": 2048, **settings}), sizes)["train"]

    one, eight = train(), train(processes=8)
    assert eight.least == pytest.approx((one.least or 0) / 8)
    assert eight.devices == 8
    parts, whole = eight.parts, 4 * (sizes.student.parameters or 0)
    assert parts is not None
    assert parts.moments == pytest.approx((one.parts.moments if one.parts else 0) / 8)
    ends = 4 * sizes.student.vocabulary * sizes.student.hidden
    assert parts.parameters > whole / 8 + ends
    assert (eight.bytes or 0) >= whole  # each reads the whole float32 student before it is spread


def test_a_fused_loss_holds_a_larger_chunk_and_the_head_once_more(
    config: MakeConfig, sizes: Sizes
) -> None:
    def logits(target: Target = GPU, **train: Any) -> float:
        # no gradient of the head comes after
        lora: dict[str, Any] = {"lora": {"rank": 32}, "fused": "auto"}
        parts = needs(large(config, train=lora | train), sizes, target)["train"].parts
        assert parts is not None
        return parts.logits

    rows, head = 7 << 24, 151_936 * 2560
    assert logits() == pytest.approx((2 + 4 / 3) * rows + 2 * head)
    assert logits(chunk_elements=3000) == pytest.approx(10_000 + 2 * head)
    assert logits(autocast="float32") == 4 * rows
    assert logits(fused=False) == 12 << 24
    cpu = Target("cpu", "cpu", 64 * GIB, 64 * GIB)
    assert logits(cpu) == logits(cpu, fused=False) == 4 << 24


def test_fused_scores_hold_two_chunks_of_logits_and_nothing_made_of_them(
    config: MakeConfig, sizes: Sizes
) -> None:
    def logits(target: Target = GPU, **score: Any) -> float:
        parts = needs(large(config, score=score), sizes, target)["score"].parts
        assert parts is not None
        return parts.logits

    assert logits() == 2 * (12 << 24)
    assert logits(fused="auto") == 2 * (4 << 26)
    cpu = Target("cpu", "cpu", 64 * GIB, 64 * GIB)
    assert logits(cpu, fused="auto") == logits(cpu) == 2 * (4 << 24)


def test_where_a_fused_loss_alone_is_too_much_the_plain_one_is_a_way(
    config: MakeConfig, sizes: Sizes
) -> None:
    mild = {"batch_tokens": 1, "activation_checkpointing": True, "fused": "auto"}
    asked = large(config, train={"lora": {"rank": 32}} | mild)
    need, plain = (
        needs(each, sizes)["train"] for each in (asked, changed(asked, {"train.fused": False}))
    )
    assert need.parts is not None
    assert plain.parts is not None
    between = int((need.parts.total + plain.parts.total) / 2)
    tight = Target("a card", "cuda", between, between)
    assert {"train.fused": False} in [way.changes for way in ways(asked, sizes, tight, need)]


def test_each_way_is_a_config_with_which_the_stage_fits(config: MakeConfig, sizes: Sizes) -> None:
    asked = large(config)
    found = needs(asked, sizes)
    short = [need for need in found.values() if need.fits(GPU) is False]
    assert {need.stage for need in short} == {"score", "train"}
    for need in short:
        offered = ways(asked, sizes, GPU, need)
        assert 0 < len(offered) <= 3
        for way in offered:
            after = memory_of(changed(asked, way.changes), sizes, GPU)
            own = [n for n in after if n.stage.split()[0] == need.stage.split()[0]]
            assert all(n.fits(GPU) for n in own)
            assert max(n.bytes or 0 for n in own) == way.bytes
            for name, value in way.changes.items():  # what is shown is what a file would hold
                written = tomllib.loads(f"{name} = {_value(value)}")
                for section in name.split("."):
                    written = written[section]
                assert written == value
    assert not [need for need in found.values() if ways(asked, sizes, card(1000), need) == []]


def test_milder_ways_come_first_and_nothing_needless_is_changed(
    config: MakeConfig, sizes: Sizes
) -> None:
    asked = large(config, train={"batch_tokens": 32_768, "rollouts_per_step": 64})
    room = card(80)
    train = needs(asked, sizes, room)["train"]
    assert train.fits(room) is False
    first, *others = (set(way.changes) for way in ways(asked, sizes, room, train))
    assert first in ({"train.batch_tokens"}, {"train.activation_checkpointing"})
    assert {"train.optimizer"} in [o - first for o in others]


def test_where_nothing_helps_no_way_is_told(config: MakeConfig, sizes: Sizes) -> None:
    asked, small = large(config), Target("a card", "cuda", 1 << 20, 1 << 30)
    assert ways(asked, sizes, small, needs(asked, sizes, small)["train"]) == []


def test_vllm_has_its_share_of_the_card_and_fills_it_with_sequences(
    config: MakeConfig, sizes: Sizes
) -> None:
    def rollout(parallel: int) -> Need:
        vllm = {"tensor_parallel": parallel, "memory": 0.5}
        return needs(_vllm(config, vllm), sizes)["rollout"]

    one, two = rollout(1), rollout(2)
    assert one.sequence == 2048 * 2 * sizes.student.cache_elements
    assert two.sequence == one.sequence / 2
    assert two.least == (one.least or 0) / 2
    assert two.devices == 2
    assert one.room(GPU) == 0.5 * GPU.total


def _vllm(config: MakeConfig, vllm: dict[str, Any]) -> RunConfig:
    asked = large(config)
    values = {"rollout.engine": "vllm", "student.vllm": asked.student.vllm.model_dump() | vllm}
    return changed(asked, values)


def test_a_plan_for_a_card_asks_for_no_card(config: MakeConfig, tmp_path: Path) -> None:
    plan = plan_of(look_at(on_card(config(device="cuda"))), target=GPU)
    assert plan.target == GPU
    assert all(need.fits(GPU) for need in plan.memory)
    assert plan.ways == {}
    path = tmp_path / "c.toml"
    asked = config().model_dump(mode="json", exclude_none=True)
    path.write_text("\n".join(_toml(asked)), encoding="utf-8")
    run = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--card", "24"])
    assert run.exit_code == 0, run.output
    assert "memory on a card of 24 GB" in run.output


def _toml(values: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _toml(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {_value(value)}")
    return lines


def test_a_card_without_a_dry_run_or_without_memory_is_refused(tmp_path: Path) -> None:
    example = str(Path(__file__).parents[3] / "examples" / "smollm2-gsm8k.toml")
    alone = CliRunner().invoke(app, ["run", example, "--card", "24"])
    assert "--card plans for a GPU that need not be here: add --dry-run" in str(alone.exception)
    for size in ("0", "nan", "inf", "1e30"):
        none = CliRunner().invoke(app, ["run", example, "--dry-run", "--card", size])
        assert "expected a GPU's memory in GB, 1 to 10,000, such as 24" in str(none.exception)


def test_a_plan_for_a_card_refuses_what_no_machine_can_do(config: MakeConfig) -> None:
    asked = config(rollout={"stop_ids": [999_999_999]})
    with pytest.raises(ConfigError, match="999"):
        plan_of(look_at(on_card(asked)), target=GPU)


def test_processes_are_offered_only_where_they_can_share(config: MakeConfig, sizes: Sizes) -> None:
    small = {"rollouts_per_step": 4}
    for train in ({}, {"optimizer": "adamw8bit"}, {"lora": {"rank": 8, "dropout": 0.1}}):
        asked = large(config, train={**small, **train})
        for gigabytes in (8, 16, 24, 40):
            need = needs(asked, sizes, card(gigabytes))["train"]
            for way in ways(asked, sizes, card(gigabytes), need):
                wanted = way.changes.get("train.processes", 1)
                assert wanted == 1 or (wanted <= 4 and not train)


def test_an_evaluation_beside_the_teacher_is_made_smaller_by_scoring_less_at_once(
    config: MakeConfig, sizes: Sizes, problems: Path
) -> None:
    asked = {"source": str(problems / "held_out.jsonl"), "template": "raw", "reverse_kl": True}
    settings = large(config, evaluate=asked, score={"chunk_elements": 1 << 30})
    found, room = replace(sizes, problem=512, problems=8), card(32)
    need = needs(settings, found, room)["evaluate"]
    assert need.fits(room) is False
    assert {"score.chunk_elements"} in [set(w.changes) for w in ways(settings, found, room, need)]
