"""What a key holds of rollouts."""

from tip.stages.engines.settings import SamplingSettings
from tip.stages.rollout.settings import RolloutSettings


def test_a_key_holds_sampling_and_the_students_top_ids() -> None:
    settings = RolloutSettings(prompts=3, replay="other")
    top = {"student_top_p": 0.99, "student_top_max": 64}
    assert settings.key() == SamplingSettings().key() | top
