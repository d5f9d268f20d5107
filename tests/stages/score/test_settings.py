"""How rollouts may be scored, and what a key holds of it."""

import pytest
from pydantic import ValidationError
from tip.stages.score.settings import ScoreSettings


@pytest.mark.parametrize("engine", ["vllm", "server"])
def test_an_engine_that_holds_the_teacher_alone_needs_separate_mode(engine: str) -> None:
    with pytest.raises(ValidationError, match=f"engine = '{engine}' holds the teacher alone"):
        ScoreSettings.model_validate({"engine": engine})
    ScoreSettings.model_validate({"engine": engine, "mode": "separate"})


def test_shares_of_draws_need_joint_mode() -> None:
    ScoreSettings.model_validate({"support": "sampled"})
    with pytest.raises(ValidationError, match="set mode = 'joint', or support = 'top'"):
        ScoreSettings.model_validate({"support": "sampled", "mode": "separate"})


def test_a_key_holds_the_teachers_part_of_the_support() -> None:
    settings = ScoreSettings(mode="separate", engine="vllm", batch_tokens=9, check_rows=0)
    assert settings.key() == {"teacher_top_p": 0.99, "teacher_top_max": 64}
