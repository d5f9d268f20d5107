"""Rows become token ids once and for all, and rounds take them in an order of their own."""

from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.prompts.order import PROMPTS_PER_SHARD, round_prompts, shards, shuffled
from tip.stages.prompts.render import RenderFacts, fill, needed_columns, render_prompts
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


@pytest.mark.parametrize("changes", [{"system": "Be brief."}, {"chat_kwargs": {"x": 1}}])
def test_chat_settings_beside_a_raw_template_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="belong to template = 'chat', but template = 'raw'"):
        settings(template="raw", **changes)


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
    assert complaint == "some.jsonl, line 3: the prompt has no token: 'x'"


def test_a_blank_answer_is_refused_with_its_line() -> None:
    complaint = refusal(
        InputError, rows({"q": "x", "a": " "}), settings(), TOKENIZER, answer_column="a"
    )
    assert complaint == "some.jsonl, line 3: the answer in column 'a' is blank"


RAW = settings(template="raw")


def test_a_prompt_that_is_too_long_is_refused_with_its_line_and_length() -> None:
    complaint = refusal(InputError, rows({"q": "1234"}, {"q": "12345"}), RAW, TOKENIZER, longest=5)
    assert complaint == (
        "some.jsonl, line 4: the prompt has 6 tokens, more than the 5 that fit; shorten it, raise "
        "max_tokens, or set too_long = 'skip'"
    )


def test_prompts_that_are_too_long_are_skipped_and_counted_when_asked() -> None:
    given_rows = rows({"q": "123456"}, {"q": "1"}, {"q": "12345"})
    prompts, facts = render_prompts(given_rows, RAW, TOKENIZER, longest=5, too_long="skip")
    assert [prompt.number for prompt in prompts] == [4]
    assert facts == RenderFacts(rows=3, prompts=1, duplicates=0, too_long=2)


def test_the_teachers_prompt_has_a_limit_of_its_own() -> None:
    arguments = (rows({"q": "1"}), RAW, TOKENIZER)
    privileged = {"teacher_format": "{q}{q}{q}", "longest": 2}
    (prompt,), _ = render_prompts(*arguments, **privileged, teacher_longest=4)
    assert len(prompt.teacher_ids) == 4
    complaint = refusal(InputError, *arguments, **privileged, teacher_longest=3)
    assert "the teacher's prompt has 4 tokens, more than the 3 that fit" in complaint


def test_skipping_every_prompt_is_refused() -> None:
    complaint = refusal(
        InputError, rows({"q": "12"}, {"q": "34"}), RAW, TOKENIZER, longest=2, too_long="skip"
    )
    assert complaint.startswith("no prompt is left: 2 of 2 rows are too long for 2 tokens")


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


# Deadlines judge the machine, not the property.
UNHURRIED = hypothesis.settings(deadline=None)


@cache
def hashes(count: int) -> list[str]:
    return [ids_hash([number]) for number in range(count)]


def rounds(count: int, size: int, number: int, seed: int = 0) -> list[list[int]]:
    return [round_prompts(hashes(count), size, round_, seed) for round_ in range(number)]


def joined(parts: list[list]) -> list:
    return list(chain.from_iterable(parts))


CASES = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@UNHURRIED
@given(CASES, st.integers(0, 3))
def test_a_round_never_holds_a_prompt_twice(case: tuple[int, int], seed: int) -> None:
    count, size = case
    for indices in rounds(count, size, 12, seed):
        assert len(set(indices)) == len(indices) == size


@UNHURRIED
@given(CASES, st.integers(0, 3))
def test_every_epoch_holds_every_prompt_once(case: tuple[int, int], seed: int) -> None:
    count, size = case
    stream = joined(rounds(count, size, 3 * count // size + 1, seed))
    for start in range(0, 3 * count, count):
        assert sorted(stream[start : start + count]) == list(range(count))


@UNHURRIED
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 3))
def test_rounds_half_as_long_see_the_same_prompts_in_the_same_shards(
    half_rounds: int, shards_a_round: int, epochs: int, seed: int
) -> None:
    size = shards_a_round * PROMPTS_PER_SHARD
    count = 2 * half_rounds * size
    long = [shards(r) for r in rounds(count, 2 * size, epochs * half_rounds, seed)]
    short = [shards(r) for r in rounds(count, size, 2 * epochs * half_rounds, seed)]
    assert joined(long) == joined(short)


@UNHURRIED
@given(st.integers(64, 200), st.integers(0, 3))
def test_before_the_first_epoch_ends_the_length_of_a_round_moves_no_prompt(
    count: int, seed: int
) -> None:
    sizes = [size for size in (7, 16, 32, 64) if size <= count]
    streams = [joined(rounds(count, size, count // size, seed)) for size in sizes]
    for stream in streams:
        assert stream == shuffled(hashes(count), seed, 0)[: len(stream)]


def test_a_round_length_that_divides_no_epoch_moves_prompts_only_at_the_seam() -> None:
    # 100 prompts, rounds of 30: round 3 holds the last 10 of epoch 0 and 20 of epoch 1. The new
    # epoch's prompts that are among those 10 follow in round 4; then the plain order goes on.
    seam = rounds(100, 30, 5)[3]
    following = shuffled(hashes(100), 0, 1)
    assert seam[:10] == shuffled(hashes(100), 0, 0)[90:]
    fresh = [index for index in following if index not in seam[:10]]
    assert seam[10:] == fresh[:20]
    waited = [index for index in following[:25] if index in seam[:10]]
    assert waited  # else this seed shows nothing
    assert rounds(100, 30, 5)[4][: len(waited)] == waited


def test_epochs_and_seeds_shuffle_anew() -> None:
    orders = [shuffled(hashes(50), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_depends_on_the_prompts_and_not_on_where_they_stand() -> None:
    plain = hashes(50)
    order = [plain[index] for index in shuffled(plain, 0, 0)]
    turned = plain[::-1]
    assert [turned[index] for index in shuffled(turned, 0, 0)] == order
    fewer = plain[:40]
    assert [fewer[index] for index in shuffled(fewer, 0, 0)] == [h for h in order if h in fewer]


def test_the_order_is_the_same_on_every_machine() -> None:
    assert shuffled(hashes(12), 0, 0) == [1, 11, 10, 5, 4, 9, 3, 2, 7, 0, 8, 6]


def test_a_round_of_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout.prompts = 128, but there are 100 distinct"):
        round_prompts(hashes(100), 128, 0, 0)


def test_shards_keep_the_order_and_only_the_last_is_small() -> None:
    assert [len(shard) for shard in shards(range(70))] == [32, 32, 6]
    assert joined(shards(range(70))) == list(range(70))
    assert shards([]) == []
