"""Rows become token ids once and for all."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tip.stages.prompts.render import RenderFacts, Room, fill, needed_columns, render_prompts
from tip.stages.prompts.settings import TextSettings
from tip.storage.errors import ConfigError, InputError, TipError
from tip.storage.keys import ids_hash
from tip.storage.sources.rows import Row, read_rows
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

CHAT = (
    "{% for m in messages %}{% if m['role'] == 'system' and no_system is defined %}"
    "{{ raise_exception('no system message please') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


def tokenizer(chat_template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Return a byte tokenizer that puts `<bos>` before plain text."""
    letters = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    bytes_ = Tokenizer(BPE(vocab=letters, merges=[]))
    bytes_.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_.decoder = ByteLevelDecoder()
    bytes_.add_special_tokens(["<bos>"])
    bytes_.post_processor = TemplateProcessing(single="<bos> $0", special_tokens=[("<bos>", 256)])
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token="<bos>")
    made.chat_template = chat_template
    return made


TOKENIZER = tokenizer()


def rows(*fields: Mapping[str, Any]) -> list[Row]:
    return [Row(number, row, "some.jsonl") for number, row in enumerate(fields, start=3)]


def settings(**changes: Any) -> TextSettings:
    return TextSettings(**{"source": "some.jsonl", "format": "{q}", **changes})


def text(ids: tuple[int, ...]) -> str:
    return TOKENIZER.decode(list(ids))


def refusal(error: type[TipError], *args: Any, **kwargs: Any) -> str:
    """Return the error of rendering, which must be one line."""
    with pytest.raises(error) as caught:
        render_prompts(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_chat_prompt_is_the_template_around_the_text() -> None:
    ((prompt,), _) = render_prompts(rows({"q": "1+1?"}), settings(), TOKENIZER)
    assert text(prompt.ids) == "<user>1+1?<end><assistant>"


def test_a_chat_prompt_holds_the_system_message_and_the_templates_arguments() -> None:
    chosen = settings(system="Be brief.", chat_kwargs={"enable_thinking": False})
    ((prompt,), _) = render_prompts(rows({"q": "1+1?"}), chosen, TOKENIZER)
    expected = "<system>Be brief.<end><user>1+1?<end><assistant><think></think>"
    assert text(prompt.ids) == expected


def test_a_raw_prompt_is_the_text_with_the_tokenizers_own_special_tokens() -> None:
    ((prompt,), _) = render_prompts(rows({"q": "1+1?"}), settings(template="raw"), TOKENIZER)
    assert text(prompt.ids) == "<bos>1+1?"


def test_a_raw_prompt_is_the_text_alone_where_the_tokenizer_is_to_add_nothing() -> None:
    chosen = settings(template="raw", add_special_tokens=False)
    ((prompt,), _) = render_prompts(rows({"q": "<bos>1+1?"}), chosen, TOKENIZER)
    assert text(prompt.ids) == "<bos>1+1?"


def test_an_id_that_a_model_does_not_have_is_refused_with_line_and_token() -> None:
    asked = rows({"q": "1+1?"}, {"q": "1<bos>"})
    chosen = settings(template="raw", add_special_tokens=False)
    complaint = refusal(InputError, asked, chosen, TOKENIZER, rows_of_heads=(256, 999))
    assert complaint == (
        "some.jsonl, line 4: the prompt holds token 256 ('<bos>'), but a model that reads it has "
        "an embedding of 256 tokens; drop it from the text, `format` or the chat template"
    )
    assert len(render_prompts(asked, chosen, TOKENIZER, rows_of_heads=(257, 256))[0]) == 2
    own = {"teacher_format": "<bos>{q}", "rows_of_heads": (257, 256)}
    assert "line 3: the teacher's prompt holds" in refusal(
        InputError, asked, chosen, TOKENIZER, **own
    )


DATED = "{{ strftime_now('%d %B %Y') }} {{ date_string }} {{ messages[0].content }}"


def test_a_template_that_writes_the_date_writes_the_same_one_tomorrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Tomorrow":
            return cls(2031, 1, 2)

    def rendered(**changes: Any) -> str:
        ((prompt,), _) = render_prompts(rows({"q": "x"}), settings(**changes), tokenizer(DATED))
        return text(prompt.ids)

    today = rendered()
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    direct = tokenizer(DATED).apply_chat_template([{"content": "x"}], tokenize=False)
    assert str(direct).startswith("02 January 2031")  # else this shows nothing
    assert rendered() == today == "26 July 2024 26 Jul 2024 x"
    assert rendered(date="2025-12-01") == "01 December 2025 01 Dec 2025 x"
    mine = rendered(chat_kwargs={"date_string": "once"})
    assert mine == "26 July 2024 once x"


def test_a_prompt_carries_its_hash_its_answer_and_its_row_number() -> None:
    ((prompt,), _) = render_prompts(
        rows({"q": "1+1?", "a": 2}), settings(), TOKENIZER, answer_column="a"
    )
    assert prompt.hash == ids_hash(list(prompt.ids))
    assert (prompt.answer, prompt.number) == ("2", 3)


def test_the_teacher_is_shown_the_students_ids_unless_it_has_a_format() -> None:
    ((prompt,), _) = render_prompts(rows({"q": "1+1?", "s": "2"}), settings(), TOKENIZER)
    assert prompt.teacher_ids == prompt.ids


def test_the_teachers_format_is_rendered_by_the_teachers_tokenizer() -> None:
    ((prompt,), _) = render_prompts(
        rows({"q": "1+1?", "s": "2"}),
        settings(),
        TOKENIZER,
        teacher_tokenizer=tokenizer("[{{ messages[0]['content'] }}]"),
        teacher_format="{q} It is {s}.",
    )
    assert text(prompt.ids) == "<user>1+1?<end><assistant>"
    assert text(prompt.teacher_ids) == "[1+1? It is 2.]"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{q} and {n_1}", "{n_1} and 7"),
        (r"{q} in \boxed{}", r"{n_1} in \boxed{}"),
        (r"\frac{1}{2} x^{n+1} { q } {}", r"\frac{1}{2} x^{n+1} { q } {}"),
        (r"\boxed{{n_1}}", r"\boxed{7}"),
        ("{ü}", "umlaut"),
    ],
)
def test_only_a_name_alone_between_braces_is_replaced_and_only_once(
    form: str, expected: str
) -> None:
    assert fill(form, {"q": "{n_1}", "n_1": 7, "ü": "umlaut"}) == expected


def test_a_format_with_an_unknown_column_is_refused_with_the_columns_there_are() -> None:
    complaint = refusal(
        ConfigError, rows({"q": "x", "id": 1}), settings(format="{prompt}"), TOKENIZER
    )
    assert complaint == (
        "format names {prompt}, but the rows have q, id; write { prompt }, with spaces, for "
        "literal braces"
    )


def test_the_needed_columns_are_those_of_both_formats_and_the_answer_each_once() -> None:
    chosen = settings(format=r"{q} {hint} \boxed{}")
    columns = needed_columns(chosen, teacher_format="{q} {solution}", answer_column="hint")
    assert columns == ["q", "hint", "solution"]


def test_a_format_that_names_no_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"format = 'Solve!' names no column: .* '\{prompt\}'"):
        needed_columns(settings(format="Solve!"))


def test_a_tokenizer_without_a_chat_template_is_refused_with_the_way_out() -> None:
    complaint = refusal(ConfigError, rows({"q": "x"}), settings(), tokenizer(None))
    assert "has no chat template: set template = 'raw'" in complaint


def test_a_chat_template_that_refuses_the_messages_is_quoted() -> None:
    chosen = settings(system="Be brief.", chat_kwargs={"no_system": True})
    complaint = refusal(ConfigError, rows({"q": "x"}), chosen, TOKENIZER)
    assert "refuses these messages: no system message please; mend system" in complaint


def test_template_arguments_that_are_always_set_are_refused() -> None:
    chosen = settings(chat_kwargs={"tokenize": False})
    assert "may not set tokenize" in refusal(ConfigError, rows({"q": "x"}), chosen, TOKENIZER)


@pytest.mark.parametrize("template", ["chat", "raw"])
@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_prompt_is_refused_with_its_line(template: str, blank: str) -> None:
    complaint = refusal(
        InputError, rows({"q": "x"}, {"q": blank}), settings(template=template), TOKENIZER
    )
    assert complaint == "some.jsonl, line 4: the prompt is blank; expected text in '{q}'"


def test_a_prompt_without_a_token_is_refused_with_its_line() -> None:
    silent = tokenizer("{% if false %}{% endif %}")
    complaint = refusal(InputError, rows({"q": "x"}), settings(), silent)
    assert complaint == (
        "some.jsonl, line 3: the prompt has no token: 'x'; "
        "mend the chat template, or set template = 'raw'"
    )


def test_a_text_of_which_the_tokenizer_makes_nothing_is_refused_with_its_line() -> None:
    wordless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    complaint = refusal(InputError, rows({"q": "x"}), settings(template="raw"), wordless)
    assert complaint == (
        "some.jsonl, line 3: the prompt has no token: 'x'; change its text or `format`"
    )


def test_a_blank_answer_is_refused_with_its_line() -> None:
    complaint = refusal(
        InputError, rows({"q": "x", "a": " "}), settings(), TOKENIZER, answer_column="a"
    )
    assert complaint == (
        "some.jsonl, line 3: the answer in column 'a' is blank: fill it in, or drop the row"
    )


RAW = settings(template="raw")


def test_a_prompt_that_is_too_long_is_refused_with_its_line_and_length() -> None:
    given = rows({"q": "1234"}, {"q": "12345"}), RAW, TOKENIZER
    complaint = refusal(InputError, *given, longest=Room(5, "lower the other"))
    assert complaint == (
        "some.jsonl, line 4: the prompt has 6 tokens, more than the 5 that fit; shorten it, or "
        "lower the other"
    )


def test_prompts_that_are_too_long_are_skipped_and_counted_when_asked() -> None:
    given_rows = rows({"q": "123456"}, {"q": "1"}, {"q": "12345"})
    prompts, facts = render_prompts(
        given_rows, RAW, TOKENIZER, longest=Room(5, ""), too_long="skip"
    )
    assert [prompt.number for prompt in prompts] == [4]
    assert facts == RenderFacts(rows=3, prompts=1, duplicates=0, too_long=2)


def test_the_teachers_prompt_has_a_limit_of_its_own() -> None:
    arguments = (rows({"q": "1"}), RAW, TOKENIZER)
    privileged = {"teacher_format": "{q}{q}{q}", "longest": Room(2, "lower this")}
    (prompt,), _ = render_prompts(*arguments, **privileged, teacher_longest=Room(4, ""))
    assert len(prompt.teacher_ids) == 4
    limit = Room(3, "lower that")
    complaint = refusal(InputError, *arguments, **privileged, teacher_longest=limit)
    assert complaint == (
        "some.jsonl, line 3: the teacher's prompt has 4 tokens, more than the 3 that fit; shorten "
        "it, or lower that"
    )


def test_skipping_every_prompt_is_refused() -> None:
    complaint = refusal(
        InputError,
        rows({"q": "12"}, {"q": "34"}),
        RAW,
        TOKENIZER,
        longest=Room(2, "lower"),
        too_long="skip",
    )
    assert complaint.startswith(
        "no prompt is left: 2 of 2 rows are too long; of the last one the prompt has 3"
    )


def test_rows_that_render_alike_are_one_prompt_the_first() -> None:
    given_rows = rows({"q": "1+1?", "id": 0}, {"q": "2?"}, {"q": "1+1?", "id": 1})
    prompts, facts = render_prompts(given_rows, settings(), TOKENIZER)
    assert [prompt.number for prompt in prompts] == [3, 4]
    assert facts == RenderFacts(rows=3, prompts=2, duplicates=1, too_long=0)


def test_a_file_is_rendered_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a\n1+1?,2\n2+2?,4\n")
    chosen = settings(source=str(path))
    read = read_rows(chosen.source, needed=needed_columns(chosen, answer_column="a"))
    prompts, _ = render_prompts(read, chosen, TOKENIZER, answer_column="a")
    assert [prompt.answer for prompt in prompts] == ["2", "4"]


def chats(**changes: Any) -> TextSettings:
    return TextSettings(**{"source": "some.jsonl", "messages": "messages", **changes})


def said(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content, "name": "x"} for role, content in messages]


def test_a_chat_is_shown_up_to_where_the_assistant_answers() -> None:
    chat = said(("user", "1+1?"), ("assistant", "2"), ("user", "+1?"), ("assistant", "3"))
    ((prompt,), _) = render_prompts(rows({"messages": chat}), chats(), TOKENIZER)
    assert text(prompt.ids) == "<user>1+1?<end><assistant>2<end><user>+1?<end><assistant>"
    assert needed_columns(chats()) == ["messages"]


def test_a_system_message_comes_from_the_settings_a_column_or_the_chat() -> None:
    asked = said(("user", "1+1?"))
    expected = "<system>Be brief.<end><user>1+1?<end><assistant>"
    own = chats(system_column="how")
    assert needed_columns(own) == ["messages", "how"]
    for fields, chosen in (
        ({"messages": asked}, chats(system="Be brief.")),
        ({"messages": asked, "how": "Be brief."}, own),
        ({"messages": [*said(("system", "Be brief.")), *asked]}, chats()),
        ({"q": "1+1?", "how": "Be brief."}, settings(system_column="how")),
    ):
        ((prompt,), _) = render_prompts(rows(fields), chosen, TOKENIZER)
        assert text(prompt.ids) == expected
    both = rows({"messages": [*said(("system", "a")), *asked]})
    refused = refusal(InputError, both, chats(system="b"), TOKENIZER)
    assert "line 3: its messages begin with a system message; drop system" in refused


@pytest.mark.parametrize(
    ("chat", "why"),
    [
        ([], "is no chat; expected a list of messages"),
        ([3], "message 1: is no object"),
        ([{"role": "user"}], "message 1: content is None; expected text"),
        ([{"role": "user", "content": ["a"]}], "content is ['a']; expected text"),
        (said(("user", "half \ud800")), "half of a character"),
        (said(("assistant", "hello")), "nobody asks anything"),
        (said(("system", "hello")), "nobody asks anything"),
        (said(("user", " ")), "the last message is blank"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_place(chat: Any, why: str) -> None:
    refused = refusal(InputError, rows({"messages": chat}), chats(), TOKENIZER)
    assert refused.startswith("some.jsonl, line 3: column 'messages'")
    assert why in refused


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": "m", "format": "{q}"},
        {"messages": "m", "template": "raw"},
        {"system_column": "s", "template": "raw"},
        {"system_column": "s", "system": "t"},
    ],
)
def test_settings_that_contradict_a_chat_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="drop"):
        TextSettings(**{"source": "some.jsonl", **changes})
