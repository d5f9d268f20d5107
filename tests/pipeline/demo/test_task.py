"""The demo's task is what its documentation says, and the shipped pair is the one it describes."""

from __future__ import annotations

import json
import random
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tip.pipeline.demo import task
from tip.pipeline.demo.make_pair import PAIR_FOLDER, accuracy, held_out_problems
from tip.pipeline.demo.task import Errors, Problem, ScratchPad
from transformers import AutoModelForCausalLM, AutoTokenizer

ERRORS = {
    "none": task.NO_ERRORS,
    "student": task.STUDENT_ERRORS,
    "teacher": task.TEACHER_ERRORS,
    "every": Errors(subtraction=0.5, carry=0.5, slip=0.5, miscopy=0.2),
}
STEP = re.compile(
    r"(?P<opening> ?\w+ )(?P<total>\d+)(?P<sign>[+-])(?P<term>\d+): "
    r"(?P<ones>[\d+-]+)=(?P<ones_result>\d+)(?P<mark> carry| borrow|), "
    r"(?P<tens>[\d+-]+)=(?P<tens_result>\d+)(?P<connector> \w+ )(?P<new_total>\d+)\. "
)
BOX = re.compile(r"\\boxed\{(?P<answer>\d+)\}$")


def problems(count: int, *, held_out: bool = False, seed: int = 0) -> list[Problem]:
    return list(islice(task.draw_problems(random.Random(seed), held_out=held_out), count))


def pads(errors: Errors, count: int = 1500) -> list[tuple[Problem, ScratchPad]]:
    rng = random.Random(1)
    written = ((problem, task.write_pad(problem, rng, errors)) for problem in problems(count))
    return [(problem, pad) for problem, pad in written if pad is not None]


def evaluate(expression: str) -> int:
    """The value of a chain such as 90-56-23, by code that shares nothing with the task's."""
    return sum(int(term) for term in re.findall(r"[+-]?\d+", expression))


def differences(match: re.Match, name: str, right: object) -> set[int]:
    """Offsets in the text at which the matched field is not the right one."""
    assert len(match[name]) == len(str(right)) or name == "ones"
    pairs = enumerate(zip(match[name], str(right), strict=False))
    return {match.start(name) + index for index, (written, due) in pairs if written != due}


def wrong_in_columns(step: re.Match) -> set[int]:
    """Offsets of the wrong tokens in a step's columns, given the total and term it restates."""
    top, sign, bottom = int(step["total"][-1]), step["sign"], int(step["term"][-1])
    borrows = sign == "-" and top < bottom
    swapped = borrows and step["ones"] == f"{bottom}-{top}"
    wrong = differences(step, "ones", f"{10 * borrows + top}{sign}{bottom}")
    assert bool(wrong) == swapped
    wrong = {min(wrong)} if swapped else set()
    wrong |= differences(step, "ones_result", evaluate(step["ones"]))
    due = " borrow" if borrows and not swapped else " carry" if evaluate(step["ones"]) > 9 else ""
    if step["mark"] != due:
        assert (step["mark"], due) == ("", " carry")
        wrong.add(step.end("mark"))
    shift = f"{sign}1" if step["mark"] else ""
    assert step["tens"] == f"{int(step['total'][:-1])}{sign}{step['term'][:-1]}{shift}"
    return wrong | differences(step, "tens_result", evaluate(step["tens"]))


def wrong_offsets(problem: Problem, text: str) -> set[int]:
    """Offsets of the tokens at which `text` leaves what the text before it asks for."""
    steps, box = list(STEP.finditer(text)), BOX.search(text)
    assert "".join(m[0] for m in [*steps, box]) == text
    assert [step["sign"] for step in steps] == list(problem.signs)
    wrong, total = set(), str(problem.terms[0])
    for step, term in zip(steps, problem.terms[1:], strict=True):
        wrong |= differences(step, "total", total) | differences(step, "term", term)
        wrong |= wrong_in_columns(step)
        wrong |= differences(step, "new_total", step["tens_result"] + step["ones_result"][-1])
        total = step["new_total"]
    return wrong | differences(box, "answer", total)


def test_there_are_36_strings_and_none_is_the_prefix_of_another():
    clashes = [
        (a, b) for a in task.VOCABULARY for b in task.VOCABULARY if a != b and b.startswith(a)
    ]
    assert len(set(task.VOCABULARY)) == 36
    assert clashes == []


@given(st.lists(st.integers(0, 35)))
def test_any_sequence_of_ids_survives_the_trip_through_text(ids):
    assert task.encode(task.decode(ids)) == ids


@pytest.mark.parametrize("text", ["hello", "Q 90 - 56", "Q  90-56-23 A"])
def test_a_text_outside_the_language_is_refused(text):
    with pytest.raises(ValueError, match="not a text of the demo task"):
        task.encode(text)


def test_every_running_total_lies_in_10_to_99():
    for problem in problems(2000):
        (a, b, c), (first, second) = problem.terms, problem.signs
        assert problem.totals == (evaluate(f"{a}{first}{b}"), evaluate(f"{a}{first}{b}{second}{c}"))
        assert all(10 <= total <= 99 for total in problem.totals)


def test_every_prompt_is_ten_tokens_and_states_the_problem():
    for problem in problems(500):
        assert len(task.encode(problem.prompt)) == task.PROMPT_TOKENS == 10
        assert evaluate(problem.prompt) == int(problem.answer)


def test_a_pad_without_errors_is_right_and_ends_in_the_answer():
    for problem, pad in pads(task.NO_ERRORS):
        assert wrong_offsets(problem, pad.text) == set()
        assert task.read_answer(pad.text) == str(evaluate(problem.prompt))


@pytest.mark.parametrize("errors", ERRORS.values(), ids=ERRORS.keys())
def test_wrong_marks_exactly_the_deliberately_wrong_tokens(errors):
    for problem, pad in pads(errors):
        wrong, offset = wrong_offsets(problem, pad.text), 0
        for token, marked in zip(pad.ids, pad.wrong, strict=True):
            assert marked == (offset in wrong), (problem, pad.text, offset)
            offset += len(task.VOCABULARY[token])


@pytest.mark.parametrize("errors", ERRORS.values(), ids=ERRORS.keys())
def test_a_pad_fits_the_response_limit_ends_once_and_round_trips(errors):
    for _, pad in pads(errors):
        assert len(pad.ids) <= task.MAX_RESPONSE_TOKENS
        assert pad.ids.index(task.EOS_ID) == len(pad.ids) - 1
        assert task.encode(pad.text) == pad.ids[:-1]


def test_the_misconceptions_occur_at_their_rates():
    # 5 standard errors over 1400 steps are 2.3 and 6.1 points.
    steps = [step for _, pad in pads(task.STUDENT_ERRORS, 4000) for step in STEP.finditer(pad.text)]
    units = [(s["sign"], int(s["total"][-1]), int(s["term"][-1]), s["mark"]) for s in steps]
    borrows = [mark for sign, top, bottom, mark in units if sign == "-" and top < bottom]
    carries = [mark for sign, top, bottom, mark in units if sign == "+" and top + bottom > 9]
    assert min(len(borrows), len(carries)) > 1400
    assert borrows.count("") / len(borrows) == pytest.approx(0.97, abs=0.023)
    assert carries.count("") / len(carries) == pytest.approx(0.70, abs=0.061)


def test_an_opening_one_of_a_swapped_pair_is_not_called_wrong():
    # 50-11: right is 10-1=9, the misconception writes 1-0=1; both open with 1.
    swap = Errors(subtraction=1.0)
    pad = task.write_pad(Problem((50, 11, 20), ("-", "+")), random.Random(0), swap)
    assert ": 1-0=1, 5-1=4" in pad.text
    assert [task.VOCABULARY[i] for i, wrong in zip(pad.ids, pad.wrong, strict=True) if wrong] == [
        "-"
    ]


def test_the_split_is_disjoint_deterministic_and_a_tenth():
    train, held_out = problems(4000), problems(400, held_out=True)
    assert not set(train) & set(held_out)
    assert (len(set(train)), len(set(held_out))) == (4000, 400)
    assert train == problems(4000)
    assert train != problems(4000, seed=1)
    # 5 standard errors over 30 000 problems are 0.87 points.
    terms = random.Random(0)
    drawn = [
        Problem(tuple(terms.randrange(10, 100) for _ in range(3)), ("+", "-"))
        for _ in range(30_000)
    ]
    assert sum(p.held_out for p in drawn) / len(drawn) == pytest.approx(0.1, abs=0.0087)


def test_the_hash_of_the_split_stays_what_it_is():
    assert problems(2) == [Problem((61, 48, 71), ("-", "+")), Problem((17, 22, 28), ("+", "+"))]
    assert problems(1, held_out=True)[0].prompt == "Q 20+40-22 A"


def test_problem_files_hold_prompt_and_answer_and_a_longer_file_extends_a_shorter(tmp_path: Path):
    train, held_out = task.write_problem_files(tmp_path / "long", seed=3, train=20, held_out=10)
    short, _ = task.write_problem_files(tmp_path / "short", seed=3, train=5, held_out=1)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    assert rows == [{"prompt": p.prompt, "answer": p.answer} for p in problems(20, seed=3)]
    assert len(held_out.read_text().splitlines()) == 10
    assert train.read_text().startswith(short.read_text())


@pytest.mark.parametrize("name", ["teacher", "student"])
class TestShippedPair:
    def test_the_tokenizer_gives_the_tasks_ids_and_clean_text(self, name):
        tokenizer = AutoTokenizer.from_pretrained(PAIR_FOLDER / name)
        assert [tokenizer.decode([i]) for i in range(len(tokenizer))] == list(task.VOCABULARY)
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (task.EOS_ID, task.PAD_ID)
        assert tokenizer.chat_template is None
        for problem, pad in pads(task.STUDENT_ERRORS, 200):
            text = problem.prompt + pad.text
            assert tokenizer(text).input_ids == task.encode(text)
            assert (
                tokenizer.decode([*task.encode(text), task.EOS_ID], skip_special_tokens=True)
                == text
            )

    def test_the_model_is_bf16_and_has_the_stated_greedy_accuracy(self, name):
        model = AutoModelForCausalLM.from_pretrained(PAIR_FOLDER / name)
        assert model.dtype == torch.bfloat16
        assert model.generation_config.eos_token_id == task.EOS_ID
        low, high = {"teacher": (0.97, 1.0), "student": (0.30, 0.50)}[name]
        assert low <= accuracy(model.float().eval(), held_out_problems(200)) <= high


def test_the_pair_is_small_and_both_models_share_one_tokenizer():
    files = [path for path in PAIR_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (
            len({(PAIR_FOLDER / model / name).read_bytes() for model in ("teacher", "student")})
            == 1
        )
