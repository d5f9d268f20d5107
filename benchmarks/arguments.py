"""What all benchmarks take from the command line."""

import argparse
from pathlib import Path


def models_folder(text: str) -> Path:
    """Return the folder with both SmolLM2 models; argparse turns the error into one line."""
    for name in ("smollm2-135m", "smollm2-half"):
        if not (Path(text) / name / "config.json").is_file():
            raise argparse.ArgumentTypeError(f"{text} holds no {name}: `make models` makes it")
    return Path(text)
