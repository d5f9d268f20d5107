"""What came of a run: its numbers before and after, three answers to read, where its student is."""

import textwrap
from collections.abc import Iterable
from shlex import quote

from ...storage.files import bytes_under
from ...storage.runs import RoundPointers
from ...storage.store.artifacts import Artifact
from ...storage.tables import read_table
from ...storage.visible import visible
from ..metrics import ByRound, EvaluateMetrics, by_round
from ..session import Session
from .cells import number, percent, plain, screen, size, table

_ANSWERS = 3
_CHARACTERS = 300  # of an answer


def print_ending(session: Session) -> None:
    """Print what a finished run came to, and what to do with it."""
    out, run = screen(), session.run
    last = session.config.rounds  # an earlier start may have gone further
    rounds = {n: of for n, of in by_round(run.metrics()).items() if n <= last}
    shown = table(("", "before", "after"), f"what came of {run.name}", left=("",))
    for line in _numbers(rounds):
        shown.add_row(*line)
    out.print(shown)
    who, answers = _answers(session, rounds)
    out.print(plain(f"\nthree of its {who}:"))
    for answer in answers:
        out.print(plain(textwrap.indent(_short(answer), "  | ")), soft_wrap=True)
    out.print(plain(_next(session)), soft_wrap=True)


def _numbers(rounds: ByRound) -> list[tuple[str, str, str]]:
    """Return what is known before and after: of held-out problems, or of the rounds' rollouts."""
    asked = [of.evaluate for of in rounds.values() if of.evaluate is not None]
    if asked:
        first, last = asked[0], asked[-1]
        lines = [(f"answered right, of {last.problems} problems", _right(first), _right(last))]
        if last.reverse_kl is not None:
            before, after = number(first.reverse_kl), number(last.reverse_kl)
            lines.append(("reverse KL to the teacher, held out, nats a token", before, after))
        return lines
    scored = [of.score.reverse_kl for of in rounds.values() if of.score is not None]
    of_what = "reverse KL on the first and last round's rollouts, each before its training"
    return [(of_what, number(scored[0]), number(scored[-1]))] if scored else []


def _right(asked: EvaluateMetrics) -> str:
    return f"{percent(asked.accuracy)} ({percent(asked.low)} to {percent(asked.high)})"


def _answers(session: Session, rounds: ByRound) -> tuple[str, list[str]]:
    """Return what three answers are, and they: to problems, or the last round's rollouts."""
    last = max(rounds)
    asked = rounds[last].evaluate
    if asked is not None and asked.answers:
        found = _tables(session, "evaluation", asked.answers)
        texts = read_table(found, ["response"])["response"].to_pylist()[:_ANSWERS]
        return f"answers after {last} {'round' if last == 1 else 'rounds'}", texts
    played = [n for n in rounds if rounds[n].rollout is not None]
    number = max(played, default=0)
    pointers = session.run.round(number) or RoundPointers()
    ids = read_table(_tables(session, "rollouts", pointers.of("rollouts")), ["response_ids"])
    tokenizer = session.inputs.student_card.tokenizer
    texts = [
        tokenizer.decode(row, skip_special_tokens=True)
        for row in ids["response_ids"].slice(0, _ANSWERS).to_pylist()
    ]
    return f"rollouts of round {number}, before its training", texts


def _tables(session: Session, kind: str, keys: Iterable[str]) -> list:
    found = (session.store.find(kind, key) for key in keys)
    there: list[Artifact] = [artifact for artifact in found if artifact is not None]
    return [session.store.path(artifact, kind) for artifact in there[:_ANSWERS]]


def _short(answer: str) -> str:
    text = visible(" ".join(answer.split()))
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 3] + "..."


def _student(session: Session) -> str:
    """Return where the last student is: the link to it, or what stands in its place."""
    final = session.run.final
    if final.is_symlink() or not final.is_file():
        return str(final)
    return final.read_text(encoding="utf-8").strip()


def _state(session: Session) -> str:
    """Return a line on the training states that lie here, or nothing."""
    states = session.run.kept_states()
    if not states:
        return ""
    return (
        f"state:   {size(sum(map(bytes_under, states)))} in {session.run.path / 'states'}, for "
        f"more rounds and branches; tip runs prune {session.run.name} frees it\n"
    )


def _next(session: Session) -> str:
    run, runs = session.run, session.config.runs
    where = "" if runs == "runs" else f" --runs {quote(runs)}"
    return (
        f"\nstudent: {_student(session)}\n{_state(session)}"
        f"next:    tip export {run.name} FOLDER{where}      a copy for transformers and vLLM\n"
        f'         tip sql "SELECT text, avg(reverse_kl) kl, count(*) n FROM tokens GROUP BY 1 '
        f'ORDER BY 2 DESC LIMIT 9" --run {run.name}{where}\n'
        f"         the same command with a larger `rounds` goes on"
    )
