"""A model that vLLM cannot run is found by starting it, and so is one that it can."""

from pathlib import Path

import pytest
from tip.pipeline.doctor.doctor import examine
from vllm_pair import needs_vllm, widened

from ..conftest import PAIR, MakeConfig


@needs_vllm
@pytest.mark.soak
def test_an_engine_that_does_not_start_hides_no_other(config: MakeConfig, tmp_path: Path) -> None:
    small = {"vllm": {"cpu_cache_gb": 1}}
    score = {"mode": "separate", "engine": "vllm"}
    narrow = config(student=small, teacher=small, score=score, rollout={"engine": "vllm"})
    findings = {f.name: f for f in examine(narrow, load=True)}
    assert findings["student in vLLM"].verdict == "fail"  # its heads have 16 dimensions
    assert "set engine = 'transformers'" in findings["student in vLLM"].text
    assert findings["teacher in vLLM"].verdict == "warn"
    assert "cannot be asked for the student's ids" in findings["teacher in vLLM"].text
    wide = {"model": str(widened(PAIR / "student", tmp_path / "wide"))} | small
    both = config(student=wide, rollout={"engine": "vllm"})
    findings = {f.name: f for f in examine(both, load=True)}
    assert findings["student in vLLM"].text.startswith("vLLM runs it, ")
