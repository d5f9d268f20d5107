"""Keys are the same on any machine, and different for different things."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.storage.keys import KEY_LENGTH, canonical, ids_hash, key_of, rollout_id

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_the_order_of_a_dictionary_is_no_part_of_its_text(value: dict) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_known_keys_are_pinned() -> None:
    assert canonical({"b": 0.1, "a": [1, None, "é"]}) == '{"a":[1,null,"\\u00e9"],"b":0.1}'
    assert key_of({"b": 0.1, "a": [1, None, "é"]}) == "c4a3605abc4d143576ed174e5f059c47"
    assert ids_hash([1, 2, 3]) == "4636993d3e1da4e9"
    assert rollout_id("4636993d3e1da4e9", 0) == 3548354452287636144


@given(st.text(), st.integers(0, 1000))
def test_a_rollouts_id_is_a_number_that_fits_63_bits(prompt: str, sample: int) -> None:
    assert 0 <= rollout_id(prompt, sample) < 1 << 63
    assert rollout_id(prompt, sample) != rollout_id(prompt, sample + 1)


def test_other_values_have_other_keys() -> None:
    values = [1, 1.0, "1", [1], True, None, {}, {"a": 1}, {"a": [1]}, {"a": 1, "b": None}]
    keys = {key_of(value) for value in values}
    assert len(keys) == len(values)
    assert {len(key) for key in keys} == {KEY_LENGTH}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_is_not_finite_has_no_key(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        key_of(value)


def test_what_json_cannot_hold_has_no_key() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        key_of({1, 2})


def test_ids_are_hashed_by_value_in_order() -> None:
    assert ids_hash([1, 2]) != ids_hash([2, 1])
    assert ids_hash([]) != ids_hash([0])
