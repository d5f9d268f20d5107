"""Rounds of this project beside steps of TRL's `DistillationTrainer`, and a second experiment.

    python benchmarks/trl_step.py MODELS [--steps N] [--turns N]    (pip install -e ".[bench]")

Teacher SmolLM2-135M, student half of its layers, float32 on the CPU, two threads. A step is 8
prompts, the same on both sides, each answered with exactly 64 tokens; that both read the same
number of tokens is checked. Both: reverse KL, fused AdamW without decay, learning rate 3e-4,
constant, gradients clipped at norm 1, sampling at temperature 1 from the whole vocabulary.

* `trl`: steps that generate, run the teacher, the loss, backward and the optimiser. Its
  `DistillationTrainer` is the stable on-policy trainer; `GKDTrainer` is experimental and holds the
  logits of all tokens at once. Set for speed: no gradient checkpointing, no bfloat16 autocast, no
  dropout, no logs, bars or checkpoints; its loss is in chunks as it is. `min_new_tokens` keeps
  responses at the limit. Models stay loaded, nothing is written.
* `all`, `soft_or`: whole rounds as `tip run` plays them, on all tokens and on 20 %: rollout, score
  with its check, select, train; models loaded anew, Parquet, checkpoint and training state written.
  Stop ids are taken away, so that responses go to the limit.
* `again`: each turn a new run with another rule over the store of `all`, from its start to the end
  of round 0, whose rollouts and teacher scores are found. TRL has nothing to find: the baseline is
  the same number of its steps.

Each side is a process of its own. They take turns; of each the fastest counts. Imports are not
counted, nor the start of TRL, `all` and `soft_or`. Memory is the largest resident size of the
process. A round loads and writes as much for one step as for many: `--steps` says how many there
are in one. Rounds of the examples have 8 and more.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import cycle
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from arguments import models_folder
from timing import line, save

THREADS, PROMPTS, RESPONSE, RATE = 2, 8, 64, 3e-4  # PROMPTS: of a step
THINGS = ("apples", "coins", "books", "trains", "letters", "stones", "birds", "chairs")
RULES = ("random", "entropy_top", "divergence")  # of `again`: one a turn

LESS, MORE = "below 1: less than TRL", "above 1: more than TRL"

Answers = list[dict[str, Any]]


def main() -> int:
    """Print and write the lines of this benchmark; as a child, play one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", type=models_folder, help="folder with both SmolLM2 (`make models`)"
    )
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--steps", type=int, default=4, help="training steps in a round")
    parser.add_argument("--turns", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        Child(options.models, options.steps, options.turns, options.work).play(options.side)
        return 0
    if find_spec("trl") is None:
        print('TRL is not installed: pip install -e ".[bench]"', file=sys.stderr)
        return 2
    with TemporaryDirectory() as work:
        answers = by_turns(options.models, options.steps, options.turns, Path(work))
    check_same_work(answers, options.steps)
    save("trl_step", lines_of(answers, options.steps), options.out)
    return 0


def questions(count: int) -> list[str]:
    """Return that many different problems."""
    return [
        f"Ann has {17 + i} {thing} and gives {3 + i // 8} away. Then she buys twice as many "
        f"{thing} as she has left. How many {thing} does Ann have now?"
        for i, thing in zip(range(count), cycle(THINGS), strict=False)
    ]


def by_turns(models: Path, steps: int, turns: int, work: Path) -> dict[str, Answers]:
    """Return what each side measured in each turn."""
    lines = [json.dumps({"prompt": text}) for text in questions(steps * PROMPTS)]
    (work / "prompts.jsonl").write_text("\n".join(lines))
    sides = {name: Side(name, models, steps, turns, work) for name in SIDES}
    try:
        for side in sides.values():
            side.listen()  # it is ready
        played = [{name: side.turn() for name, side in sides.items()} for _ in range(turns)]
    finally:
        for side in sides.values():
            side.process.communicate()
    return {name: [turn[name] for turn in played] for name in sides}


class Side:
    """A child process that does one step or round whenever it is asked."""

    def __init__(self, name: str, models: Path, steps: int, turns: int, work: Path) -> None:
        self.log = work / f"{name}.log"
        command = [sys.executable, __file__, str(models), f"--steps={steps}", f"--turns={turns}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"--side={name}", f"--work={work}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)},
            )

    def turn(self) -> dict[str, Any]:
        """Return the numbers of one more turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.listen()

    def listen(self) -> dict[str, Any]:
        """Return what the process says next."""
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.log.stem} ended early:\n{self.log.read_text()[-2000:]}")
        return json.loads(answer)


class Child:
    """One side, in its own process: plays a turn for each line of standard input."""

    def __init__(self, models: Path, steps: int, turns: int, work: Path) -> None:
        self.steps, self.count, self.work = steps, turns, work
        self.teacher, self.student = models / "smollm2-135m", models / "smollm2-half"
        self.out, sys.stdout = sys.stdout, sys.stderr  # libraries print, too

    def play(self, side: str) -> None:
        """Get ready, then play all turns."""
        import torch

        torch.set_num_threads(THREADS)
        SIDES[side](self)

    def turns(self) -> Iterator[int]:
        """Say that all is ready, and yield the number of each turn that is asked for."""
        self.answer()
        for number, _ in enumerate(sys.stdin):
            yield number

    def answer(self, **numbers: Any) -> None:
        """Tell the parent."""
        print(json.dumps(numbers), file=self.out, flush=True)

    def trl(self) -> None:
        """Train with TRL, the steps of a round a turn."""
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import DistillationConfig, DistillationTrainer

        student, teacher = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            for folder in (self.student, self.teacher)
        )
        settings = DistillationConfig(
            output_dir=str(self.work / "trl"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            per_device_train_batch_size=PROMPTS,
            max_steps=self.steps * self.count,
            optim="adamw_torch_fused",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=1.0,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_completion_length=RESPONSE,
            generation_kwargs={"min_new_tokens": RESPONSE},
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        asked = [
            {"prompt": [{"role": "user", "content": text}]}
            for text in questions(self.steps * PROMPTS)
        ]
        DistillationTrainer(
            model=student,
            teacher_model=teacher,
            args=settings,
            train_dataset=Dataset.from_list(asked),
            processing_class=AutoTokenizer.from_pretrained(self.student, padding_side="left"),
            callbacks=[trl_turns(self)],
        ).train()

    def all(self) -> None:
        """Play rounds that train on all tokens."""
        self.rounds("all", 1.0)

    def soft_or(self) -> None:
        """Play rounds that train on a fifth of the tokens."""
        self.rounds("soft_or", 0.2)

    def rounds(self, rule: str, keep: float) -> None:
        """Play a run, a round a turn."""
        from tip.pipeline.rounds.identity import begin
        from tip.pipeline.rounds.play import play_round

        session, loading = self.session(rule, rule, keep), watch_loading()
        begin(session)
        for number in self.turns():
            loading.clear()
            start = time.perf_counter()
            play_round(session, number)
            self.report(session, number, time.perf_counter() - start, sum(loading))

    def again(self) -> None:
        """Start a run a turn, with another rule, over the store of `all`."""
        from tip.pipeline.rounds.identity import begin
        from tip.pipeline.rounds.play import play_round

        loading = watch_loading()
        for number in self.turns():
            loading.clear()
            start = time.perf_counter()
            session = self.session("all", f"again-{RULES[number]}", 0.2, RULES[number])
            begin(session)
            play_round(session, 0)
            self.report(session, 0, time.perf_counter() - start, sum(loading))

    def session(self, store: str, name: str, keep: float, rule: str | None = None) -> Any:
        """Return the session of a run, whose responses have no end but the limit."""
        from dataclasses import replace

        from tip.pipeline.config.toml import make_config
        from tip.pipeline.session import Session

        values = {
            "name": name,
            "rounds": self.count,
            "store": str(self.work / f"store-{store}"),
            "runs": str(self.work / "runs"),
            "device": "cpu",
            "threads": THREADS,
            "student": {"model": str(self.student)},
            "teacher": {"model": str(self.teacher)},
            "prompts": {"source": str(self.work / "prompts.jsonl")},
            "rollout": {"prompts": self.steps * PROMPTS, "max_tokens": RESPONSE},
            "select": {"rule": rule or name, "keep": keep},
            "train": {
                "lr": RATE,
                "warmup_steps": 0,
                "schedule": "constant",
                "rollouts_per_step": PROMPTS,
            },
        }
        session = Session(make_config(values, "benchmark"))
        session.student_card = replace(session.student_card, stop_ids=())
        return session

    def report(self, session: Any, number: int, seconds: float, loading: float) -> None:
        """Tell the parent what a round was. seconds: all of it; loading: models, of these."""
        stages = {m["stage"]: m for m in session.run.metrics() if m["round"] == number}
        score = stages["score"]
        self.answer(
            seconds=seconds,
            loading=loading,
            tokens=score["teacher_tokens_scored"] + score["teacher_tokens_reused"],
            generated=stages["rollout"]["generated_tokens"],
            trained=stages["train"]["trained_tokens"],
            stages={name: m["seconds"] for name, m in stages.items()},
            peak=resident_mb(),
        )


SIDES: dict[str, Callable[[Child], None]] = {
    "trl": Child.trl,
    "all": Child.all,
    "soft_or": Child.soft_or,
    "again": Child.again,
}


def trl_turns(child: Child) -> Any:
    """Return a callback that has TRL take its steps when asked, and reports them."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def __init__(self) -> None:
            self.turns, self.start, self.read = child.turns(), 0.0, 0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % child.steps == 0:
                next(self.turns)
                self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % child.steps == 0:
                seconds, seen = time.perf_counter() - self.start, state.num_input_tokens_seen
                trained = child.steps * PROMPTS * RESPONSE  # all that is generated
                child.answer(
                    seconds=seconds, tokens=seen - self.read, trained=trained, peak=resident_mb()
                )
                self.read = seen

    return Turns()


def watch_loading() -> list[float]:
    """Return a list that gets the seconds of each load of a model from now on."""
    from tip.pipeline import session
    from tip.pipeline.rounds import training
    from tip.stages.models.load import load_model

    spent: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        model = load_model(*args, **kwargs)
        spent.append(time.perf_counter() - start)
        return model

    session.load_model = training.load_model = timed
    return spent


def resident_mb() -> int:
    """Return the largest memory in MB that this process has held."""
    import torch
    from tip.pipeline.progress import peak_memory

    return peak_memory(torch.device("cpu"))["peak_memory_mb"]


def check_same_work(answers: dict[str, Answers], steps: int) -> None:
    """Show that all sides read as many tokens, and generated what they should; or end."""
    read = {turn["tokens"] for turns in answers.values() for turn in turns}
    made = {turn["generated"] for name in ("all", "soft_or") for turn in answers[name]}
    found = {turn["generated"] for turn in answers["again"]}
    if len(read) > 1 or made != {steps * PROMPTS * RESPONSE} or found != {0}:
        raise SystemExit(f"the sides did different work: read {read}, generated {made}, {found}")


def lines_of(answers: dict[str, Answers], steps: int) -> list[dict[str, object]]:
    """Return the lines of results, and print them."""
    fastest = {name: min(turns, key=itemgetter("seconds")) for name, turns in answers.items()}
    trl = fastest["trl"]
    size = f"{steps} steps" if steps > 1 else "one step"
    trl_speed, trl_peak = trl["trained"] / trl["seconds"], answers["trl"][-1]["peak"]
    about = f"{trl['tokens']:,} tokens read, {trl['trained']:,} of them generated"
    lines = [line(f"TRL, {size}", trl["seconds"], "s", about, None)]
    for name, title in (
        ("all", f"a round of {size}, all tokens"),
        ("soft_or", f"a round of {size}, Soft-OR 20%"),
        ("again", f"another rule, 20%, stored round of {size}"),
    ):
        best, peak = fastest[name], answers[name][-1]["peak"]
        beside = f"TRL {trl['seconds']:.2f} s"
        for what, seconds in ((title, 0.0), ("  without loading models", best["loading"])):
            rest = best["seconds"] - seconds
            lines.append(line(what, rest, "s", beside, rest / trl["seconds"], LESS))
        for stage, seconds in best["stages"].items():
            lines.append(line(f"  {stage}", seconds, "s", "the round", seconds / best["seconds"]))
        speed = best["trained"] / best["seconds"]
        beside = f"TRL {trl_speed:.1f} tokens/s"
        lines.append(line("  trained tokens", speed, "tokens/s", beside, speed / trl_speed, MORE))
        lines.append(
            line("  peak memory", peak, "MB", f"TRL {trl_peak:,} MB", peak / trl_peak, LESS)
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
