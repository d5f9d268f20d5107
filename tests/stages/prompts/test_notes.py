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
