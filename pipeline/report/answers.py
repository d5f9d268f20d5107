"""What students answered to the same problems after every round: how one and the same prompt fared.

Answers are artifacts that no pointer of a run names: they are found by what made them, as a second
start of the run would find them.
"""

from itertools import pairwise
from typing import Any

from ...storage.errors import TipError
from ...storage.tables import read_table
from ..executors.finder import LackingError
from ..rounds.evaluation import evaluate_works
from .plane import spread
from .source import Source

MOST_PROBLEMS = 24
_MOST_ROUNDS = 12
_LONGEST = 4000  # characters of an answer
_COLUMNS = ("problem", "sample", "expected", "answer", "verdict", "length", "response")


def answers_of(source: Source) -> dict[str, Any] | None:
    """Return problems with their answers by round; None where nothing was asked or is here.

    Those come first whose verdict changed most often: they tell more than what is always right.
    """
    asked = [n for n, of in source.metrics.items() if of.evaluate is not None]
    if not asked or source.tokenizer is None or source.config.evaluate is None:
        return None
    found: dict[str, dict[int, dict[str, Any]]] = {}
    rounds = []
    for number in spread(asked, _MOST_ROUNDS):
        answers = _answers(source, number)
        if answers is None:
            continue
        rounds.append(number)
        for line in answers:
            if line["sample"] == 0:
                found.setdefault(line["problem"], {})[number] = line
    if not rounds:
        return None
    texts = _texts(source)
    order = sorted(found, key=lambda p: (-_changes(found[p]), p))
    return {
        "rounds": rounds,
        "of": len(found),
        "problems": [_problem(texts.get(p, p), found[p]) for p in order[:MOST_PROBLEMS]],
    }


def _answers(source: Source, number: int) -> list[dict[str, Any]] | None:
    """Return the answers of the student after so many rounds, None where they are not found."""
    session = source.session
    try:
        works = evaluate_works(session, session.student(number))
        made = [each for of_work in session.executor.map(works, "answers") for each in of_work]
        paths = [session.store.path(each.artifact, "evaluation") for each in made]
    except (LackingError, TipError):
        return None
    return read_table(paths, _COLUMNS).to_pylist()


def _texts(source: Source) -> dict[str, str]:
    """Return the problems as the student read them, by hash."""
    problems = source.session.inputs.problems
    return {p.hash: source.tokenizer.decode(list(p.ids)) for p in problems}


def _changes(by_round: dict[int, dict[str, Any]]) -> int:
    verdicts = [line["verdict"] for _, line in sorted(by_round.items())]
    return sum(a != b for a, b in pairwise(verdicts))


def _problem(text: str, by_round: dict[int, dict[str, Any]]) -> dict[str, Any]:
    any_line = next(iter(by_round.values()))
    return {
        "text": text,
        "expected": any_line["expected"],
        "answers": {
            number: {
                "verdict": line["verdict"],
                "answer": line["answer"],
                "length": line["length"],
                "text": line["response"][:_LONGEST],
                "cut": len(line["response"]) > _LONGEST,
            }
            for number, line in by_round.items()
        },
    }
