import pytest
from tip.pipeline.show.texts import Texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def of_bytes() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_what_several_tokens_make_together_is_the_text_of_the_first(
    of_bytes: PreTrainedTokenizerFast,
) -> None:
    ids = of_bytes.encode("a é日\n🦙b", add_special_tokens=False)
    texts = Texts(of_bytes).in_order(ids)
    assert len(texts) == len(ids)
    assert [text for text in texts if text] == ["a", " ", "é", "日", "\n", "🦙", "b"]


def test_bytes_that_are_no_character_stay_in_their_places(
    of_bytes: PreTrainedTokenizerFast,
) -> None:
    ids = of_bytes.encode("é", add_special_tokens=False)[:1] * 3
    assert Texts(of_bytes).in_order(ids) == ["\ufffd"] * 3


def test_a_leading_space_is_kept() -> None:
    words = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "c": 2, "?": 3}, unk_token="?"))
    words.decoder = decoders.Metaspace()
    texts = Texts(PreTrainedTokenizerFast(tokenizer_object=words))
    assert [texts.of(token) for token in range(3)] == [" a", " b", "c"]


def test_without_a_tokenizer_ids_stand_for_texts() -> None:
    assert Texts(None).in_order([7, 7, 2]) == ["#7", "#7", "#2"]
