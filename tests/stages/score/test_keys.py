"""What makes scores is in their key, and nothing else is."""

from typing import Any

from tiny import score_settings
from tip.stages.score.keys import engine_teacher_inputs, teacher_inputs, tokens_inputs
from tip.storage.keys import key_of


def test_the_teachers_key_knows_model_rollouts_prompts_and_support_settings() -> None:
    usual: dict[str, Any] = {
        "teacher": "t",
        "dtype": "torch.float32",
        "rollouts": ("key", "content"),
        "prompts": None,
        "settings": score_settings(),
    }
    changes: list[dict[str, Any]] = [
        {"teacher": "u"},
        {"dtype": "torch.bfloat16"},
        {"rollouts": ("key", "other")},
        {"prompts": [(1, 2)]},
        {"settings": score_settings(teacher_top_p=0.5)},
        {"settings": score_settings(teacher_top_max=5)},
    ]
    keys = {key_of(teacher_inputs(**usual | change)) for change in ({}, *changes)}
    assert len(keys) == 1 + len(changes)
    free = score_settings(batch_tokens=7, chunk_elements=7, check_rows=0)
    assert key_of(teacher_inputs(**usual | {"settings": free})) == key_of(teacher_inputs(**usual))


def test_draws_are_in_the_key_of_a_sampled_support_alone() -> None:
    def key(**changes: Any) -> str:
        settings = score_settings(**changes)
        return key_of(teacher_inputs("t", "d", ("key", "content"), None, settings))

    assert key(draws=7) == key()
    assert len({key(), key(support="sampled"), key(support="sampled", draws=7)}) == 3


def test_the_tokens_key_tells_exact_from_support() -> None:
    exact, support = (
        key_of(tokens_inputs("s", "torch.float32", ("key", "content"), mode))
        for mode in ("exact", "support")
    )
    assert exact != support


def test_special_tokens_are_in_the_tokens_key_only_where_a_flag_tells_them() -> None:
    usual = tokens_inputs("s", "torch.float32", ("key", "content"), "exact")
    more = tokens_inputs("s", "torch.float32", ("key", "content"), "exact", (4, 9))
    assert more == usual | {"flagged": [4, 9]}
    assert tokens_inputs("s", "torch.float32", ("key", "content"), "exact", ()) == usual


def test_keys_tell_engines_apart_and_leave_the_transformers_key_alone() -> None:
    settings = score_settings(mode="separate", engine="vllm")
    one = engine_teacher_inputs("t", "d", ("k", "c"), None, settings, given_ids=False)
    wider = score_settings(mode="separate", engine="vllm", engine_top=256)
    others = [
        engine_teacher_inputs("t", "d", ("k", "c"), None, settings, given_ids=True),
        engine_teacher_inputs("t", "d", ("k", "c"), None, wider, given_ids=False),
        engine_teacher_inputs(
            "t",
            "d",
            ("k", "c"),
            None,
            score_settings(mode="separate", engine="server"),
            given_ids=False,
        ),
    ]
    assert one not in others
    assert len({str(sorted(o.items())) for o in [one, *others]}) == 4
