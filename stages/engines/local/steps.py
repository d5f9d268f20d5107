"""What a batch writes: packed on the device, and on the host a few steps later.

All that a step says of a row is one row of whole numbers, so that some steps come over as one copy.
A GPU is never waited for at once: the host reads what was sent at its last look, while the GPU goes
on. So it learns late that a row has finished, and what the row has written since is left out. On a
CPU nothing is late. Legend: B rows of a batch, S slots of student ids.
"""

import numpy as np
import torch
from torch import Tensor

from ....storage.errors import NumericsError
from ...arrays.coming import Coming
from ...arrays.ragged import Ragged
from ..protocols import Responses, Sampling, Spared, Tick

_LOOK = 8  # steps of a GPU between two looks: what has finished is noticed 8 to 16 steps late
_TOKEN, _LOGPROB, _TOP = 0, 1, 2  # columns of a packed row: the ids are behind the first two


def packed(tokens: Tensor, logprobs: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
    """Return all that a step says of B rows as whole numbers [B, 2 + S], int32.

    tokens, logprobs: [B], of the drawn tokens. ids, kept: [B, S] the student's top ids, and which
    of them are to be kept.
    """
    bits = logprobs.float().view(torch.int32)
    top = ids.int().masked_fill(~kept, -1)
    return torch.cat([tokens.int()[:, None], bits[:, None], top], 1)


class Steps:
    """The steps of a batch of requests.

    vocabulary: ids that the model has. rows: [B] which request each row of the batch belongs to.
    """

    def __init__(
        self, requests: int, sampling: Sampling, vocabulary: int, device: torch.device
    ) -> None:
        self.rows = np.arange(requests)
        self._left = sampling.max_tokens  # that a row may still write, of which all steps are read
        self._every = 1 if device.type == "cpu" else _LOOK
        self._late = device.type != "cpu"
        self._going = np.ones(requests, dtype=bool)
        self._stops = np.isin(np.arange(vocabulary), sampling.stop_ids)
        self._made: list[Tensor] = []
        self._sent: list[tuple[np.ndarray, Coming]] = []
        self._written: list[tuple[np.ndarray, np.ndarray]] = []  # requests, and what of them

    @property
    def going(self) -> np.ndarray:
        """Return which rows of the batch go on, as far as is known, [B]."""
        return self._going[self.rows]

    def add(self, step: Tensor) -> bool:
        """Take what a step says, see `packed`; return whether it is time to look."""
        self._made.append(step)
        return len(self._made) == self._every

    def look(self, tick: Tick, *, last: bool = False) -> None:
        """Read what has come; tick its tokens, and those that a row which has ended will not write.

        last: nothing will be written any more, so all is waited for. Raises `NumericsError` for a
        log-prob that is none.
        """
        if self._made:
            self._sent.append((self.rows, Coming(torch.stack(self._made))))
            self._made = []
        if last and self._sent:
            self._sent[-1][1].array()  # what was sent earlier is there, too, then
        while len(self._sent) > (1 if self._late and not last else 0):
            rows, coming = self._sent.pop(0)
            for step in coming.array():
                written, ended = self._read(rows, step)
                tick(written)
                if spared := ended * self._left:
                    tick(Spared(spared))

    def keep(self, kept: np.ndarray) -> None:
        """Note that only these rows of the batch are left in it."""
        self.rows = self.rows[kept]

    def _read(self, rows: np.ndarray, step: np.ndarray) -> tuple[int, int]:
        """Keep what a step says; return the tokens written, and how many rows they ended."""
        going = self._going[rows]
        step, rows = step[going], rows[going]
        if not np.isfinite(step[:, _LOGPROB].view(np.float32)).all():
            raise NumericsError(
                "the student's logits hold NaN or infinity while it samples: nothing of this shard "
                "is stored; try student.dtype = 'float32' or an earlier checkpoint"
            )
        self._written.append((rows, step))
        ends = self._stops[step[:, _TOKEN]]
        self._going[rows] = ~ends
        self._left -= 1
        return len(rows), int(ends.sum())

    def responses(self) -> Responses:
        """Return all steps regrouped request by request."""
        rows = np.concatenate([rows for rows, _ in self._written])
        steps = np.concatenate([step for _, step in self._written])
        steps = steps[np.argsort(rows, kind="stable")]
        ids = Ragged(steps[:, _TOKEN].copy(), np.bincount(rows, minlength=len(self._going)))
        top = steps[:, _TOP:]
        kept = top >= 0
        return Responses(
            ids,
            steps[:, _LOGPROB].copy().view(np.float32),
            Ragged(top[kept], kept.sum(1).astype(np.int32)),
            self._stops[ids.values[ids.offsets[1:] - 1]],
        )
