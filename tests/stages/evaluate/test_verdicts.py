"""Verdicts are right, come in time whatever the answer does, and leave no process behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.evaluate.verdicts import Verdict, Verifier, last_boxed, reference_answer
from tip.storage.errors import ConfigError

PATIENCE = 30.0  # seconds a pair may take where time is not the question, on a busy machine
HANGING = "9^{9^{9^{9}}}"  # one big-integer power: Python never gets a turn while it runs


def box(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def words(pairs: list[tuple[str, str]], timeout: float = PATIENCE) -> list[str]:
    """Return the verdicts' words of (answer, reference) pairs."""
    with Verifier("math", timeout=timeout) as verifier:
        return [v.word for v in verifier.verdicts([(box(a), r) for a, r in pairs])]


def children() -> dict[int, str]:
    """Return the processes that this one has started and not yet reaped: id to command."""
    listed = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # threads and processes may end while they are looked at
            for pid in (task / "children").read_text().split():
                listed[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return listed


def workers() -> list[int]:
    return [pid for pid, command in children().items() if "verdicts_worker" in command]


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something holds, and fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children().keys() <= before.keys()


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a shared data file."""
    folder = Path(os.environ.get("TIP_DATA", Path(__file__).parents[4] / "shared" / "data"))
    path = folder / name
    if not path.is_file():
        reason = f"{path} is missing: set TIP_DATA to the folder of the problem sets"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is the answer in a text?


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4}", "4"),
        (r"first \boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}} and {braces}", r"\frac{1}{2}"),
        (r"\boxed {\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{(1, 2\}}", r"(1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        ("\\boxed{ a\n b }", "a\n b"),
        (r"} \boxed{5}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"\begin{pmatrix} 1 \\\boxed{5} \end{pmatrix}", "5"),
        (r"\boxed{5} then \boxed{\frac{1}{2", "5"),
        (r"\boxed{5} put it in \boxed{}, please", "5"),
        (r"\boxed{ }", None),
        (r"\boxed{5", None),
        (r"\boxed 5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_complete_filled_box(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


BALANCED = st.recursive(
    st.text("ab1 ,^\n", max_size=4) | st.sampled_from([r"\{", r"\}", r"\\", r"\frac"]),
    lambda inner: (
        st.builds(lambda a, b: f"{a}{{{b}}}", inner, inner) | st.builds(str.__add__, inner, inner)
    ),
)


@given(BALANCED, st.text("ab \n", max_size=5), BALANCED)
def test_whatever_balanced_text_is_boxed_comes_back(before: str, after: str, content: str) -> None:
    expected = content.strip() or None
    assert last_boxed(f"{before}\\boxed{{{content}}}{after}") == expected


def test_a_text_of_a_million_open_boxes_is_read_in_one_pass() -> None:
    start = time.monotonic()
    assert last_boxed(r"\boxed{7}" + r"\boxed{" * 1_000_000) == "7"
    assert time.monotonic() - start < PATIENCE  # quadratic time would take hours


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("72", "72"),
        ("48 + 24 = <<48+24=72>>72 clips.\n#### 72", "72"),
        ("#### 1\n####  1,234 \n", "1,234"),
        (r"Hence $x = \boxed{\frac{3}{4}}$.", r"\frac{3}{4}"),
        (" the  west\n wind. ", "the west wind"),
    ],
)
def test_the_reference_is_what_follows_four_hashes_or_is_boxed_or_all_of_it(
    reference: str, answer: str
) -> None:
    assert reference_answer(reference) == answer


# Exact comparison


def test_exact_verdicts_compare_text_and_start_no_process() -> None:
    with Verifier("exact", timeout=PATIENCE) as verifier:
        verdicts = verifier.verdicts(
            [(box(" a  b"), "a b."), (box("0.5"), "1/2"), ("0.5", "0.5"), (box("."), "1")]
        )
        assert workers() == []
    assert verdicts == [
        Verdict("a  b", "right"),
        Verdict("0.5", "wrong"),
        Verdict(None, "no answer"),
        Verdict(None, "no answer"),
    ]
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False]


# Mathematical comparison


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac{1}{2}", r"\frac12"),
        ("72.0", "48+24 = 72\n#### 72"),
        ("1234", "#### 1,234"),
        (r"1{,}234", "1234"),
        (r"\sqrt{117}", r"3\sqrt{13}"),
        ("x = 5", "5"),
        ("Evelyn", r"\text{Evelyn}"),
        ("(C)", r"\text{(C)}"),
        (r"90^\circ", "90"),
        ("2, 1", "1,2"),
        ("-q + p", "p - q"),
        ("204.", "204"),
    ],
)
def test_equal_answers_in_another_form_are_right(answer: str, reference: str) -> None:
    assert words([(answer, reference)]) == ["right"]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("73", "72"),
        ("q - p", "p - q"),
        (r"2\pi", "2"),
        ("west", r"\text{east}"),
        (r"\frac{1}", "1"),
    ],
)
def test_other_answers_are_wrong(answer: str, reference: str) -> None:
    assert words([(answer, reference)]) == ["wrong"]


# Kinds of answers that math-verify alone judges the other way
RIGHT = [
    ("1\\,234", "1234"),
    ("32 dollars", "32"),
    ("p - q", r"\text{p - q}"),
    (r"\varnothing", r"\emptyset"),
    ("５", "5"),
    ("x²", "x^2"),
    ("1.5e3", "1500"),
    ("3.0e-2", "0.03"),
    ("1.5 × 10³", "1500"),
    ("3 1/2", r"\frac72"),
    ("4½", r"4\frac{1}{2}"),
    ("]0;1]", "(0,1]"),
    ("√(x+1)", r"\sqrt{x+1}"),
    ("(−∞,1)∪(2,∞)", r"(-\infty,1)\cup(2,\infty)"),
    ("2⁻³", r"\frac{1}{8}"),
    ("90°", "90"),
    ("0,5", "0.5"),
    (r"0.1\overline{6}", r"\frac16"),
    ("0.333...", r"\frac13"),
    (r"1011_{\text{two}}", "1011_2"),
    (r"1, 3, \ldots, 2n-1", r"1, 3, \dots, -1+2n"),
    ("32 USD", "\\$32"),
    ("12,34,567", "1234567"),
    (r"32 \frac{\text{m}}{\text{s}^2}", "32"),
    (r"32\dfrac{m}{s}", "32 m/s"),
    ("1,2,3,...,n", "1,2,...,n"),
    (r"2,4,\ldots,2n", r"2,4,6,\ldots,2n-2,2n"),
]
WRONG = [
    ("1/2004!", "1/2006!"),
    ("2^{-99}", "2^{-98}"),
    ("10^{-20}", "10^{-21}"),
    (r"e^{-50}", "e^{-49}"),
    (r"\frac{\pi}{10^{20}}", r"\frac{\pi}{10^{21}}"),
    (r"\sqrt{2}+10^{-20}", r"\sqrt{2}"),
    (r"\{10^{-20}, 1\}", r"\{10^{-21}, 1\}"),
    ("(0, 10^{-20})", "(0, 10^{-21})"),
    ("x = 10^{-20}", "x = 10^{-21}"),
    ("x < 10^{-20}", "x < 10^{-21}"),
    ("0.00000012", r"\frac{13}{10^8}"),
    ("1.0000001", "1.0000002"),
    ("1011_2", "1011_3"),
    ("1,2,...,n", "1,3,5,...,2n-1"),
    (r"1, 2, \dots, 10", r"1, 3, \dots, 10"),
    (r"1, 2, \dots, 10", "10"),
    (r"1,2,\ldots,5", "1,2,5"),
    ("1\\,234", "235"),
    ("3 1/2", "2"),
    ("7 ? 10", "10"),
    ("5 cm", "5 m"),
    (r"5\text{ million}", "5"),
    ("listen", "silent"),
    ("on", "no"),
    ("12,34,568", "1234567"),
    (r"32\frac{km}{h}", "32 m/s"),
    (r"3\frac{m}{n}", "3"),
    ("1,2,4,...,n", "1,2,...,n"),
    (r"2,4,\ldots,2n-1,2n", r"2,4,\ldots,2n"),
    (r"\{1,2\}", "(1,2)"),
]
# Equal by other means than digits: what the exact look must leave right
STILL_RIGHT = [
    (r"\frac{2005 \cdot 2006}{2006!}", r"\frac{1}{2004!}"),
    (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"),
    (r"\cos(\pi/5)", r"\frac{1+\sqrt5}{4}"),
    (r"e^{-50}", r"\frac{1}{e^{50}}"),
    (r"\sqrt{2}^{1000}", "2^{500}"),
    ("4.123105625617661", r"\sqrt{17}"),
    ("0.333333", r"\frac13"),
    (r"50\%", r"\frac12"),
    (r"50\%", "50"),
    (r"\begin{pmatrix}0.5\\3\end{pmatrix}", r"\begin{pmatrix}1/2\\3\end{pmatrix}"),
    ("77", "77_8"),
    ("2e - 1", "2e-1"),
    ("20,10,300", "10,20,300"),
    ("yx", "xy"),
]


def test_answers_are_judged_by_what_they_say_and_exactly() -> None:
    asked = RIGHT + STILL_RIGHT + WRONG
    expected = ["right"] * len(RIGHT + STILL_RIGHT) + ["wrong"] * len(WRONG)
    judged = zip(asked, words(asked), expected, strict=True)
    assert [(pair, word) for pair, word, right in judged if word != right] == []


def test_a_list_whose_term_hangs_is_a_timeout_and_one_with_a_wrong_term_is_wrong() -> None:
    pairs = [
        (rf"{HANGING}, 2, \ldots", r"1, 2, \ldots"),
        (rf"{HANGING}, 3x, \ldots", r"1, 2x, \ldots"),
        (r"0.5, 2, \ldots", r"\frac12, 2, \ldots"),
    ]
    assert words(pairs, timeout=3) == ["timeout", "wrong", "right"]


def test_equal_texts_are_right_without_a_process() -> None:
    with Verifier("math", timeout=PATIENCE) as verifier:
        (verdict,) = verifier.verdicts([(box(HANGING), HANGING)])
        assert workers() == []
    assert verdict == Verdict(HANGING, "right")


@pytest.mark.parametrize("name", ["math500.jsonl", "aime24.jsonl", "aime25.jsonl"])
def test_every_reference_answer_is_right_as_it_stands(name: str) -> None:
    answers = [row["answer"] for row in rows(name)]
    with Verifier("math", timeout=PATIENCE) as verifier:
        verdicts = verifier.verdicts([(box(answer), answer) for answer in answers])
    assert [v.answer for v in verdicts if not v.correct] == []


def test_every_reference_of_math500_is_right_by_math_verify_itself() -> None:
    # `\displaystyle` changes the text and not the meaning: no answer is settled by equal texts.
    answers = [row["answer"] for row in rows("math500.jsonl")]
    assert words([(rf"\displaystyle {answer}", answer) for answer in answers]) == ["right"] * 500


def test_references_of_math500_are_wrong_for_their_neighbours() -> None:
    answers = [row["answer"] for row in rows("math500.jsonl")]
    pairs = list(zip(answers[1:], answers, strict=False))
    right = [pair for pair, word in zip(pairs, words(pairs), strict=True) if word != "wrong"]
    assert right == [("x=5", "5"), ("7", "7"), ("3", "3")]  # neighbours that are equal


def test_answers_of_gsm8k_are_right_against_its_solutions() -> None:
    pairs = [(f"{row['answer']}.00", row["solution"]) for row in rows("gsm8k_test.jsonl")]
    assert words(pairs) == ["right"] * 1319


@pytest.mark.parametrize("name", ["aime24.jsonl", "aime25.jsonl", "gsm8k_test.jsonl"])
def test_whole_numbers_are_right_for_their_equals_alone(name: str) -> None:
    answers = [row["answer"] for row in rows(name)]
    pairs = list(zip(answers[1:], answers, strict=False))
    equal = ["right" if int(a) == int(b) else "wrong" for a, b in pairs]
    assert words(pairs) == equal


# Time, crashes and processes


@pytest.mark.parametrize(
    "answer",
    [
        HANGING,
        r"\sum_{n=1}^{1000000000} \frac{1}{n^2}",  # in a loop of Python's
        pytest.param("((100!)!)!", marks=pytest.mark.soak),
        pytest.param("10^{10^{10}}", marks=pytest.mark.soak),
    ],
)
def test_an_answer_that_hangs_is_a_timeout_and_the_rest_goes_on(answer: str) -> None:
    pairs = [("0.50", "1/2"), (answer, "1.0"), ("1/2", "0.5"), ("3", "2")]
    # 0.50 = 1/2 in a fresh process needs a fifth of a second, in CI perhaps a whole one.
    with Verifier("math", timeout=3) as verifier:
        verdicts = verifier.verdicts([(box(a), r) for a, r in pairs])
    assert [v.word for v in verdicts] == ["right", "timeout", "right", "wrong"]
    assert [v.correct for v in verdicts] == [True, False, True, False]


def test_the_time_is_that_of_one_pair_and_not_of_all() -> None:
    pairs = [(f"{number}x", f"{number + 1}x") for number in range(2000)]
    start = time.monotonic()
    assert words(pairs, timeout=1.5) == ["wrong"] * 2000
    assert time.monotonic() - start > 1.5  # else the pairs show nothing


def test_a_pair_that_hangs_is_asked_once_however_often_it_comes() -> None:
    start = time.monotonic()
    assert words([(HANGING, "1")] * 40, timeout=0.5) == ["timeout"] * 40
    assert time.monotonic() - start < 40 * 0.5


def test_one_process_serves_many_calls() -> None:
    with Verifier("math", timeout=PATIENCE) as verifier:
        verifier.verdicts([(box("x"), "y")])
        first = workers()
        verifier.verdicts([(box("z"), "y")])
        assert workers() == first
        assert len(first) == 1


def test_a_process_that_dies_on_a_pair_is_a_timeout_and_the_rest_goes_on() -> None:
    killed = []

    def kill_when_busy() -> None:
        until(workers)
        time.sleep(2)  # it is then starting or within the pair that hangs
        killed.extend(workers())
        os.kill(killed[0], signal.SIGKILL)

    with Verifier("math", timeout=60) as verifier:
        verifier.verdicts([(box("x"), "y")])
        thread = threading.Thread(target=kill_when_busy)
        thread.start()
        start = time.monotonic()
        verdicts = verifier.verdicts([(box(HANGING), "1"), (box("0.5"), "1/2")])
        assert time.monotonic() - start < 50  # it did not wait for the time limit
        thread.join()
        assert workers() != killed
    assert [verdict.word for verdict in verdicts] == ["timeout", "right"]


def test_a_process_that_died_between_calls_is_replaced() -> None:
    with Verifier("math", timeout=PATIENCE) as verifier:
        verifier.verdicts([(box("x"), "y")])
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: "Z" in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2])
        (verdict,) = verifier.verdicts([(box("0.5"), "1/2")])
    assert verdict.word == "right"


def test_verdicts_come_in_any_thread() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(words([("0.5", "1/2"), ("x", "y")])))
    thread.start()
    thread.join()
    assert found == ["right", "wrong"]


def test_an_exception_leaves_no_process() -> None:
    def fail() -> None:
        with Verifier("math", timeout=PATIENCE) as verifier:
            verifier.verdicts([(box("x"), "y")])
            assert len(workers()) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert workers() == []


def test_an_interrupted_verifier_can_be_asked_again() -> None:
    def interrupt() -> None:
        until(workers)
        time.sleep(2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with Verifier("math", timeout=60) as verifier:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            verifier.verdicts([(box(HANGING), "1"), (box("y"), "x")])
        thread.join()
        assert workers() == []
        verdicts = verifier.verdicts([(box("0.5"), "1/2"), (box("y"), "x")])
    assert [verdict.word for verdict in verdicts] == ["right", "wrong"]


# A main program without a guard, as a console script or a notebook's first cell is one.
SCRIPT = r"""
import sys
from tip.stages.evaluate.verdicts import Verifier
print("started", flush=True)
with Verifier("math", timeout=float(sys.argv[1])) as verifier:
    print(verifier.verdicts([(r"\boxed{0.5}", "1/2")])[0].word, flush=True)
    print(verifier.verdicts([(r"\boxed{" + sys.argv[2] + "}", "1.0")])[0].word, flush=True)
"""

Start = Callable[[float, str], "subprocess.Popen[str]"]


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[Start]:
    """Start the script with a time limit and an answer; it is gone when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(timeout: float, answer: str) -> "subprocess.Popen[str]":
        path = tmp_path / "main.py"
        path.write_text(SCRIPT)
        process = subprocess.Popen(
            [sys.executable, str(path), str(timeout), answer],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def busy_worker(main: "subprocess.Popen[str]") -> int:
    """Wait until the script asks for its second verdict, and return its worker."""
    assert main.stdout is not None
    assert [main.stdout.readline().strip() for _ in range(2)] == ["started", "right"]
    time.sleep(0.3)
    worker = worker_of(main.pid)
    assert worker is not None
    return worker


def worker_of(pid: int) -> int | None:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(listed[0]) if listed else None


def gone(pid: int) -> bool:
    """Whether a process has ended: reaped, or a zombie that its new parent has yet to reap."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except FileNotFoundError:
        return True


def test_a_main_program_without_a_guard_runs_once(start_script: Start) -> None:
    out, err = start_script(PATIENCE, "2").communicate(timeout=120)
    assert (out.split(), err) == (["started", "right", "wrong"], "")


def test_ctrl_c_ends_the_main_program_and_its_worker(start_script: Start) -> None:
    main = start_script(60, HANGING)
    worker = busy_worker(main)
    os.killpg(main.pid, signal.SIGINT)  # as a terminal does: to every process of its group
    out, err = main.communicate(timeout=PATIENCE)
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert gone(worker)


def test_the_worker_is_no_member_of_the_group_that_ctrl_c_reaches() -> None:
    with Verifier("math", timeout=PATIENCE) as verifier:
        verifier.verdicts([(box("x"), "y")])
        (worker,) = workers()
        assert os.getpgid(worker) == worker != os.getpgid(0)


def test_a_worker_that_hangs_outlives_a_killed_main_program_by_seconds_only(
    start_script: Start,
) -> None:
    main = start_script(1.5, HANGING)
    worker = busy_worker(main)
    main.kill()
    main.communicate()
    assert not gone(worker)  # else this shows nothing
    until(lambda: gone(worker), seconds=2 * 1.5 + 1 + 5)


def test_a_missing_math_verify_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math-verify here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Verifier("math", timeout=PATIENCE) as verifier, pytest.raises(ConfigError) as caught:
        verifier.verdicts([(box("x"), "y")])
    assert str(caught.value) == (
        "verifier = 'math' cannot use math-verify: no math-verify here; install math-verify, or "
        "set verifier = 'exact'"
    )


def test_a_process_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier("math", timeout=PATIENCE) as verifier, pytest.raises(ConfigError) as caught:
        verifier.verdicts([(box("x"), "y")])
    assert "its process did not start" in str(caught.value)
