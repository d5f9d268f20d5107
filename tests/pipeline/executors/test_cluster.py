"""How many actors a cluster has room for, host by host."""

import pytest
from tip.pipeline.actors import Share
from tip.pipeline.executors.cluster import _room


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "room"),
    [
        (8, 0, Share(3, 0.0, 3, "cpu"), 2),
        (2, 0, Share(3, 0.0, 3, "cpu"), 0),
        (8, 2, Share(1, 1.0, 1, "cuda"), 2),
        (8, 2, Share(1, 0.5, 1, "cuda"), 4),
        (8, 2, Share(1, 0.4, 1, "cuda"), 4),  # 0.2 of each are left, of no use to a fifth
        (3, 2, Share(1, 0.5, 1, "cuda"), 3),
        (8, 7, Share(1, 4.0, 1, "cuda"), 1),
        (8, 0, Share(1, 1.0, 1, "cuda"), 0),
    ],
)
def test_a_host_has_room_for_whole_actors(cpus: int, gpus: int, share: Share, room: int) -> None:
    assert _room({"CPU": float(cpus), "GPU": float(gpus)}, share) == room
