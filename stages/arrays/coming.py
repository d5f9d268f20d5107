"""Numbers on their way from a device to the host, while the device goes on working."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Coming:
    """A tensor that is being copied to the host; the device's next work does not wait for that.

    On a CPU it is the tensor itself, which must not be written to any more.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self._sent = torch.cuda.Event() if tensor.is_cuda else None
        if self._sent is not None:
            self._sent.record()

    def array(self) -> np.ndarray:
        """Return the numbers; the host waits until they are there."""
        if self._sent is not None and not self._sent.query():
            self._sent.synchronize()
        return self._host.numpy()


class ComingColumns:
    """Columns of N rows on their way to the host, as one copy.

    columns: by name [N] or [N, K]: whole numbers below 2^31 in size, and others, which arrive as
    float32.
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self._kinds = {
            name: (column.dim(), column.is_floating_point()) for name, column in columns.items()
        }
        wide = [c if c.dim() == 2 else c[:, None] for c in columns.values()]
        self._ends = np.cumsum([c.shape[1] for c in wide])
        bits = [c.float().view(torch.int32) if c.is_floating_point() else c.int() for c in wide]
        self._coming = Coming(torch.cat(bits, 1))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns, int32 and float32, as views; the host waits until they are there."""
        parts = np.split(self._coming.array(), self._ends[:-1], axis=1)
        found = {}
        for (name, (dim, floating)), part in zip(self._kinds.items(), parts, strict=True):
            own = part if dim == 2 else part[:, 0]
            found[name] = own.view(np.float32) if floating else own
        return found
