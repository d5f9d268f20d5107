"""Odd prompts are counted and named with a way out, usual ones are not."""

from tip.stages.prompts.notes import notes_on


def test_a_doubled_special_token_and_a_stop_token_at_the_end_are_noted() -> None:
    prompts = [(1, 1, 5), (1, 5, 2), (1, 5, 5), (5, 5), (1, 1, 2), (1,)]
    assert notes_on(prompts, {1, 2}, {2}, "raw") == [
        "2 of 6 prompts begin twice with the special token 1: set add_special_tokens = false if "
        "the tokenizer adds it, or drop it from the text",
        "2 of 6 prompts end with the stop token 2: set add_special_tokens = false if the tokenizer "
        "adds it, or drop it from the text",
    ]
    assert notes_on([(1, 1)], {1}, {2}, "chat") == [
        "1 of 1 prompts begin twice with the special token 1: look at the chat template"
    ]


def test_usual_prompts_get_no_note() -> None:
    assert notes_on([(1, 5, 5), (5, 5, 3)], {1, 2}, {2}, "raw") == []


def test_prompts_without_the_token_that_a_family_begins_with_are_noted() -> None:
    (note,) = notes_on([(2, 5), (5, 5), (5, 2)], {2}, set(), "raw", 2)
    assert note.startswith("2 of 3 prompts do not begin with token 2, with which models of this")
    assert "add_bos_token" in note
    assert notes_on([(2, 5), (2, 6)], {2}, set(), "raw", 2) == []
