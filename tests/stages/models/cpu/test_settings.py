"""What a CPU is told is no part of what is computed."""

import pytest
from tip.stages.models.cpu.settings import CpuSettings


@pytest.mark.parametrize("name", CpuSettings.model_fields)
def test_no_switch_makes_another_result_or_another_run(name: str) -> None:
    settings = CpuSettings.model_validate({name: False})
    assert settings.key() == settings.identity() == {}
