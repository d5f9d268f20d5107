"""A plan is shown with what is still to be made, and how far each round is."""

import io

from rich.console import Console
from tip.pipeline.plan.disk import WeightsOnDisk
from tip.pipeline.plan.memory import Need
from tip.pipeline.plan.plan import Plan, RoundPlan
from tip.pipeline.show.plan import print_plan

from ..conftest import MakeConfig

ROUNDS = [
    RoundPlan(0, 4, 128, 6000, 7000, 400_000, 4, 4, trained=True),
    RoundPlan(1, 4, 128, 6000, 7000, 400_000, 3, 2, trained=False),
    RoundPlan(2, 4, 128, 6000, 7000, 400_000, None, None, trained=False),
]

NEEDS = [Need("train", "moments", 3.4e9, 3e9), Need("score", "both models", None, None)]


def test_each_round_says_what_of_it_is_in_the_store(config: MakeConfig) -> None:
    plan = Plan(ROUNDS, 46.9, "a guess", NEEDS, ())
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
    assert {"train 3.4 GB moments", "score not known both models"} <= {*lines}
    assert "never hashed" not in text


def test_weights_on_disk_are_shown_where_they_are_known(config: MakeConfig) -> None:
    out = io.StringIO()
    plan = Plan(
        ROUNDS, 46.9, "a guess", NEEDS, (), weights=WeightsOnDisk(3_000_000, 7_000_000, 1_000_000)
    )
    print_plan(config("mine"), plan, Console(file=out, width=200))
    said = "600.0 kB of tables, 3.0 MB of checkpoints; the run folder holds up to 7.0 MB of"
    assert said in out.getvalue()


def test_the_first_prompt_is_shown_token_by_token_and_long_ones_by_their_ends(
    config: MakeConfig,
) -> None:
    def shown(prompt: tuple[tuple[int, str], ...]) -> str:
        out = io.StringIO()
        plan = Plan(ROUNDS, 46.9, "a guess", NEEDS, (), prompt)
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
    plan = Plan(ROUNDS, 46.9, "a guess", NEEDS, ("student", "teacher"))
    print_plan(config("mine"), plan, Console(file=out, width=120))
    assert "the weights of student and teacher were never hashed here" in out.getvalue()
