"""What makes teacher signals and token tables: the printable values behind their keys."""

from collections.abc import Sequence

from .settings import ScoreSettings

TEACHER_VERSION = 2
TOKENS_VERSION = 4


def teacher_inputs(
    teacher: str,
    dtype: str,
    rollouts: tuple[str, str],
    prompts: Sequence[Sequence[int]] | None,
    settings: ScoreSettings,
) -> dict:
    """Return what makes a shard of teacher scores. rollouts: key and content hash of its source.

    prompts: the teacher's own prompts where they differ from the student's (privileged context).
    Supports of the most probable ids have the keys that they had when there were no others.
    """
    sampled = {"support": settings.support, "draws": settings.draws}
    return {
        **settings.key(),
        **(sampled if settings.support == "sampled" else {}),
        "version": TEACHER_VERSION,
        "teacher": teacher,
        "dtype": dtype,
        "rollouts": list(rollouts),
        "prompts": None if prompts is None else [list(p) for p in prompts],
    }


def tokens_inputs(
    student: str,
    dtype: str,
    teacher: tuple[str, str],
    mode: str,
    flagged: Sequence[int] = (),
) -> dict:
    """Return what makes a shard of the token table. mode: `exact` or `support`.

    flagged: special ids that only a flag of the tokenizer tells (`ModelCard.flagged_ids`). The
    fingerprint knows names of tokens and no flags. Where there are none the table is what it was
    before flags counted, and keeps its key.
    """
    more = {"flagged": list(flagged)} if flagged else {}
    return more | {
        "version": TOKENS_VERSION,
        "student": student,
        "dtype": dtype,
        "teacher": list(teacher),
        "mode": mode,
    }


def engine_teacher_inputs(
    teacher: str,
    dtype: str,
    rollouts: tuple[str, str],
    prompts: Sequence[Sequence[int]] | None,
    settings: ScoreSettings,
    *,
    given_ids: bool,
) -> dict:
    """Return what makes a shard of an engine's teacher scores.

    given_ids: whether the engine is asked for the student's ids; else `engine_top` decides which
    of them are known.
    """
    return teacher_inputs(teacher, dtype, rollouts, prompts, settings) | {
        "engine": settings.engine,
        "engine_top": settings.engine_top,
        "given_ids": given_ids,
    }
