"""What a user can set of how a CPU computes."""

from ...settings import Settings


class CpuSettings(Settings):
    """What a CPU is told so that it computes faster. Each changes last digits only."""

    attention: bool = True
    """Attention as matrix products for short sequences. *Not in a key*."""
    products: bool = True
    """Float32 products by oneDNN, on AMD CPUs with AVX-512, where they are shown to be exact.
    *Not in a key*."""
    heap: bool = True
    """Keep memory that tensors give back, for the next ones. *Not in a key*."""
