"""A plan is shown with what is still to be made, and how far each round is."""

import io
from dataclasses import replace
from typing import Any

from rich.console import Console
from tip.pipeline.plan.disk import WeightsOnDisk
from tip.pipeline.plan.needs import Need, Parts
from tip.pipeline.plan.plan import Plan, RoundPlan
from tip.pipeline.plan.target import Target, card
from tip.pipeline.plan.ways import Way
from tip.pipeline.show.plan import print_plan

from ..conftest import MakeConfig

ROUNDS = [
    RoundPlan(0, 4, 128, 6000, 7000, 400_000, 4, 4, trained=True),
    RoundPlan(1, 4, 128, 6000, 7000, 400_000, 3, 2, trained=False),
    RoundPlan(2, 4, 128, 6000, 7000, 400_000, None, None, trained=False),
]

NEEDS = [
    Need("train", "64 tokens", Parts(1e9, moments=2.4e9), 3e9),
    Need("score", "32 tokens", None, None),
]
CPU = Target("cpu", "cpu", 16 << 30, 16 << 30)


def plan_with(needs: list[Need] = NEEDS, target: Target = CPU, **more: Any) -> Plan:
    plan = Plan(ROUNDS, 46.9, "a guess", needs, target, {}, ())
    return replace(plan, **more)


def test_each_round_says_what_of_it_is_in_the_store(config: MakeConfig) -> None:
    plan = plan_with()
    out = io.StringIO()
    print_plan(config("mine"), plan, Console(file=out, width=120))
    text = out.getvalue()
    assert "run mine: 3 rounds" in text
    ends = [line.split("kB")[1].strip() for line in text.splitlines() if "400.0 kB" in line]
    assert ends == ["trained", "3/4 rolled out, 2/4 scored", "not known before"]
    assert "47 tokens a response (a guess)" in text
    assert (
        "7,500 generated tokens, 10,500 teacher tokens, 600.0 kB of tables, and checkpoints" in text
    )
    assert "memory on cpu" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"train 1.0 GB 2.4 GB 3.4 GB fits 64 tokens", "score not known 32 tokens"} <= {*lines}
    assert "stage parameters moments in all of what" in lines  # what no stage needs is left out
    assert "never hashed" not in text


def test_weights_on_disk_are_shown_where_they_are_known(config: MakeConfig) -> None:
    out = io.StringIO()
    plan = plan_with(weights=WeightsOnDisk(3_000_000, 7_000_000, 1_000_000))
    print_plan(config("mine"), plan, Console(file=out, width=200))
    said = "600.0 kB of tables, 3.0 MB of checkpoints; the run folder holds up to 7.0 MB of"
    assert said in out.getvalue()


def test_the_first_prompt_is_shown_token_by_token_and_long_ones_by_their_ends(
    config: MakeConfig,
) -> None:
    def shown(prompt: tuple[tuple[int, str], ...]) -> str:
        out = io.StringIO()
        plan = plan_with(prompt=prompt)
        print_plan(config("mine"), plan, Console(file=out, width=120))
        return next((x for x in out.getvalue().splitlines() if "first prompt" in x), "")

    assert shown(()) == ""
    some = ((1, "<s>"), (7, " [b]"), (9, "\x1b\n"))
    assert shown(some) == "first prompt, 3 tokens: 1 '<s>', 7 ' [b]', 9 '\\x1b\\n'"
    long = shown(tuple((i, "w") for i in range(100)))
    assert "100 tokens: 0 'w', " in long
    assert "23 'w', (52 more), 76 'w', " in long
    assert long.endswith("99 'w'")


def test_weights_that_were_never_hashed_are_named(config: MakeConfig) -> None:
    out = io.StringIO()
    plan = plan_with(unhashed=("student", "teacher"))
    print_plan(config("mine"), plan, Console(file=out, width=120))
    assert "the weights of student and teacher were never hashed here" in out.getvalue()


def test_what_does_not_fit_is_told_with_what_lets_it_fit(config: MakeConfig) -> None:
    def shown(ways: dict[str, list[Way]]) -> str:
        out = io.StringIO()
        needs = [Need("train", "64 tokens", Parts(30e9), 30e9), NEEDS[1]]
        plan = plan_with(needs, card(24), ways=ways)
        print_plan(config("mine"), plan, Console(file=out, width=120))
        return out.getvalue()

    changes = {"train.lora": {"rank": 32, "bits": 4}, "train.activation_checkpointing": True}
    ways = [Way({"train.optimizer": "adamw8bit"}, "coarse", 2e10), Way(changes, "small", 9e9)]
    text = shown({"train": ways})
    assert "memory on a card of 24 GB, 25.1 GB of 25.8 GB to be had" in text
    assert "train does not fit: it takes about 30.0 GB and may have 25.1 GB. What lets it" in text
    assert '    20.0 GB  train.optimizer = "adamw8bit" (coarse)\n' in text
    lora = "train.lora = { rank = 32, bits = 4 }, train.activation_checkpointing = true (small)"
    assert f"     9.0 GB  {lora}\n" in text
    assert "25.1 GB: no setting alone makes it fit: take smaller models, or a" in shown(
        {"train": []}
    )


def test_vllm_says_how_many_sequences_have_room(config: MakeConfig) -> None:
    parts = Parts(10e9, cache=1e9)
    need = Need("rollout", "vLLM with 85% of it", parts, 10e9, 2, 0.85, 1e9)
    out = io.StringIO()
    print_plan(config("mine"), plan_with([need], card(24)), Console(file=out, width=200))
    assert "vLLM with 85% of it on each of 2 devices, room for 11 sequences" in out.getvalue()
