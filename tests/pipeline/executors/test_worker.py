"""What goes wrong in another process before its first work arrives as it is."""

from pathlib import Path

import pytest
from tip.pipeline.executors.apart import Apart
from tip.pipeline.progress import Reporter
from tip.storage.errors import StoreError

from ..conftest import MakeConfig
from .test_apart import Telling


def test_a_store_that_the_other_process_cannot_open_is_named(
    config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    apart = Apart(config(store=str(tmp_path / "file")), Reporter(quiet=True))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot write to the store .*/file"):
            apart.map([Telling()], "rollout")
    apart.close()
