"""A chat template is told the day in every way that it asks for, and only then."""

from tip.stages.prompts.dates import date_arguments, date_notes


def test_only_what_a_template_names_is_given() -> None:
    assert date_arguments("{{ messages }}", "2024-07-26") == {}
    assert date_arguments(None, "2024-07-26") == {}
    assert date_arguments("{{ date_string }}", "2024-07-26") == {"date_string": "26 Jul 2024"}
    (now,) = date_arguments("{{ strftime_now('%Y') }}", "2024-07-26").values()
    assert now("%Y-%m-%d %H:%M") == "2024-07-26 00:00"


def test_several_templates_of_one_tokenizer_are_looked_at() -> None:
    assert date_arguments({"default": "", "rag": "{{ date_string }}"}, "2024-07-26")


def test_the_note_tells_the_date_that_is_written() -> None:
    llama = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    assert date_notes("{{ messages }}", "2024-07-26", {"date_string": "once"}) == []
    (note,) = date_notes(llama, "2024-07-26", {"enable_thinking": False})
    assert note.endswith("which is 2024-07-26 in all runs")
    (note,) = date_notes(llama, "2024-07-26", {"date_string": "26 Nov 2025"})
    assert note.endswith("which chat_kwargs gives as '26 Nov 2025'")
