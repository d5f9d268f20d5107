"""tip: on-policy distillation on the tokens that matter, from cached teacher signals.

In Python, looking at runs and playing them:

    run = tip.open_run("mine")
    run.rounds; run.tokens(round=3); run.rollout(5); run.plane()
    run = tip.run("config.toml", "train.lr=1e-5")
    tables = tip.compare("config.toml", rules=["soft_or", "q3"], keep=[0.2])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.notebook.play import compare, run
    from .pipeline.notebook.run import open_run

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "open_run", "run"]

_HOMES = {
    "compare": ".pipeline.notebook.play",
    "run": ".pipeline.notebook.play",
    "open_run": ".pipeline.notebook.run",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `import tip` alone is light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
