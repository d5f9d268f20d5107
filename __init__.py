"""tip: on-policy distillation on the tokens that matter, from cached teacher signals."""

__version__ = "0.1.0"
