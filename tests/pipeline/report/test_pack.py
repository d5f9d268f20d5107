import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.pipeline.report.pack import NOT_KNOWN, as_json, packed, thousandths


@given(st.text(), st.text())
def test_json_in_a_page_ends_no_script_and_says_what_it_said(name: str, text: str) -> None:
    written = as_json({name: [text, "</script><!--\u2028"]})
    assert not set("<>&\u2028\u2029") & set(written)
    written.encode("utf-8")
    assert json.loads(written) == {name: [text, "</script><!--\u2028"]}


def test_a_lone_surrogate_is_written_out() -> None:
    assert as_json(["\ud800"]) == '["\\ud800"]'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_what_is_no_number_is_null(value: float) -> None:
    assert as_json([value, np.int64(2), (1,)]) == "[null,2,[1]]"


def test_arrays_are_little_endian_bytes() -> None:
    kind, text = packed([1, 258], "u2")
    assert (kind, base64.b64decode(text)) == ("u2", b"\x01\x00\x02\x01")


def test_log_probs_keep_three_digits_and_what_is_not_known() -> None:
    values = np.array([0.0, -0.0004, -1.2346, -100.0, np.nan], dtype=np.float32)
    assert thousandths(values).tolist() == [0, 0, 1235, NOT_KNOWN - 1, NOT_KNOWN]
