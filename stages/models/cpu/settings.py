"""What a user can set of how a CPU computes."""

from typing import Annotated

from ...settings import NOT_IN_KEY, Settings


class CpuSettings(Settings):
    """What a CPU is told so that it computes faster. Each changes last digits only."""

    attention: Annotated[bool, NOT_IN_KEY] = True
    """Attention as matrix products for short sequences."""
    products: Annotated[bool, NOT_IN_KEY] = True
    """Float32 products by oneDNN, on AMD CPUs with AVX-512, where they are shown to be exact."""
    heap: Annotated[bool, NOT_IN_KEY] = True
    """Keep memory that tensors give back, for the next ones."""
