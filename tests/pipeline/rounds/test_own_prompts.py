"""A teacher with a prompt of its own: what it is shown in training it is shown of problems, too."""

import json
from pathlib import Path

import numpy as np
from tip.pipeline.config.toml import make_config
from tip.pipeline.session import open_session
from tip.storage.tables import read_table

from ..conftest import MakeConfig, numbers, played

OWN = {"teacher": {"format": "{answer}{prompt}"}}


def test_a_held_out_divergence_is_to_the_teacher_that_reads_its_own_prompt(
    config: MakeConfig, problems: Path, asked: dict[str, object]
) -> None:
    evaluated = {**asked, "limit": 12, "reverse_kl": True}
    changes = {"rounds": 1, "rollout": {"prompts": 8}, "evaluate": evaluated}
    own, plain = played(config("own", **OWN, **changes)), played(config("plain", **changes))
    (first, _), (other, _) = (numbers(s, "evaluate", "reverse_kl") for s in (own, plain))
    assert first != other, "the teacher has read the same prompts"
    inputs = own.inputs
    shown = {p.hash: p.teacher_ids for p in inputs.problems}
    answers = [json.loads(line) for line in (problems / "held_out.jsonl").open()][:12]
    words = {inputs.student_card.tokenizer.decode(ids) for ids in shown.values()}
    assert all(any(text.startswith(row["answer"]) for text in words) for row in answers)


def test_what_a_problem_is_scored_with_is_what_the_teacher_is_shown(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    """The same problems as training prompts give the same token tables, value for value."""
    evaluated = {**asked, "limit": 8, "reverse_kl": True, "every": 0}
    source = {"source": asked["source"], "template": "raw", "limit": 8}
    session = played(
        config("both", **OWN, rounds=1, prompts=source, rollout={"prompts": 8}, evaluate=evaluated)
    )
    (held_out, *_) = numbers(session, "evaluate", "reverse_kl")
    pointers = open_session(session.config).run.round(0)
    assert pointers is not None
    found = [session.store.find("tokens", key) for key in pointers.of("tokens")]
    paths = [session.store.path(a, "tokens") for a in found if a is not None]
    trained = read_table(paths, ["reverse_kl"])["reverse_kl"].to_numpy().astype(np.float64)
    assert abs(trained.mean() - held_out) < 1e-6


def test_a_stored_config_of_chats_is_read_again(config: MakeConfig, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "1+1?"}]}\n')
    settings = config(prompts={"source": str(chats), "template": "chat", "messages": "messages"})
    assert make_config(settings.model_dump(mode="json"), "stored") == settings
