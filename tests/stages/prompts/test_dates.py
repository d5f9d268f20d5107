"""A chat template is told the day in every way that it asks for, and only then."""

from tip.stages.prompts.dates import date_arguments


def test_only_what_a_template_names_is_given() -> None:
    assert date_arguments("{{ messages }}", "2024-07-26") == {}
    assert date_arguments(None, "2024-07-26") == {}
    assert date_arguments("{{ date_string }}", "2024-07-26") == {"date_string": "26 Jul 2024"}
    (now,) = date_arguments("{{ strftime_now('%Y') }}", "2024-07-26").values()
    assert now("%Y-%m-%d %H:%M") == "2024-07-26 00:00"


def test_several_templates_of_one_tokenizer_are_looked_at() -> None:
    assert date_arguments({"default": "", "rag": "{{ date_string }}"}, "2024-07-26")
