"""All that a trainer reads of a long round's tables: what reading costs a token.

Random supports compress worse than real ones, so real tables are read no slower.
"""

from pathlib import Path

import numpy as np
import torch
from round_bare import micro_batches
from round_tables import Sizes
from round_tables import write_round as write
from tip.stages.train.data import load_training_data
from tip.stages.train.settings import TrainSettings

SIZES = Sizes()
TOKENS = SIZES.tokens


def write_round(folder: Path) -> tuple[list[Path], list[Path], Path]:
    """Write the tables of a long round."""
    return write(folder, SIZES)


def read_round(tables: tuple[list[Path], list[Path], Path], settings: TrainSettings) -> int:
    """Read a round and make all its batches and supports, as training does; return the tokens."""
    data = load_training_data(*tables)
    for start in range(0, len(data.rollouts), settings.rollouts_per_step):
        rows = np.arange(start, min(start + settings.rollouts_per_step, len(data.rollouts)))
        micro_batches(data, rows, settings)
        tokens = np.concatenate([data.tokens(int(row)) for row in rows])
        data.support(tokens, torch.device("cpu"))
    return len(data.positions)
