"""docs/MODELS.md: a row for each architecture that was judged, and what the refusals mean."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import transformers
from recipes import kinds
from verdicts import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "MODELS.md"

_HEAD = """# Models

Every class that transformers {version} maps as a causal language model, and the most used of
those that read more than text, whole (`+whole` where the text model is a kind as well). Of each a
tiny random model plays two rounds (rollouts, scores, selection, training, evaluation, export,
reload), and log-probs, divergences and one step's gradient are computed again by transformers
alone, in float64, one sequence at a time. `+name` is a variant of a kind.

* **right**: log-probs and divergences within 1e-4 nats, the gradient within 1e-5 of its largest
  entry (or within three times what plain float32 is off by), the same numbers alone and in batches,
  the export bit for bit what was trained. *Gap*: the largest of these differences, rounded up to a
  power of ten.
* **refused**: a `ModelError` before any work.
* **fault**: anything else; the row says what.
* **not built**: no tiny model can be made here.

Written by `python -m pytest -m soak tests/architectures`; with `-k KIND` only that kind's row is.

## What a refusal means

| reason | meaning |
|---|---|
| its head is not given the last hidden state of its body | Something lies between body and head \
(a transform of BERT's kind): the loss, which meets the head a chunk at a time, would \
leave it out. |
| its logits are not its head's | The head is no linear map that is scaled or soft-capped as the \
config says. |
| its hidden states change with the tokens that follow | It reads ahead: an encoder, or a decoder \
whose config does not say `is_decoder`. |
| token by token it computes something else than at once | What it has read is kept in a way that \
transformers' caches do not serve (states, memories), so it cannot write. |
| it cannot write token by token, it does not load | The class asks for other inputs, another \
cache or another library; transformers' own words are in brackets. |
| no vocab_size, no context | The config is not that of one language model. |

## Quantised teachers

SmolLM2-135M as each library writes it, read as the teacher of a round on a CPU (transformers 5.19).
*right*: its logits are transformers' own, and rows that are scored again agree.

| how | library | verdict |
|---|---|---|
| compressed-tensors, 8 bits packed | compressed-tensors 0.17 | right: its unpacked numbers |
| bitsandbytes, 4 bits (NF4) | bitsandbytes 0.50 | right |
| torchao, 8 bits, weights alone | torchao 0.18 | right |
| FP8 in blocks (a tiny Llama) | transformers' own | right |
| bitsandbytes, 8 bits | bitsandbytes 0.50 | refused: a row is rounded with its neighbours |
| GPTQ, AWQ | not installed | refused, with the library's name; not tried on a GPU |
| any, over files with plain numbers | | refused |

A student is refused with the way out, whatever the method.

## The table

| kind | class | verdict | gap | reason |
|---|---|---|---|---|
"""


def write(verdicts: Iterable[Verdict]) -> None:
    """Put rows of verdicts into the page; other kinds keep theirs while there is such a kind."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    rows = rows_of(old)
    rows |= {verdict.kind: _row(verdict) for verdict in verdicts}
    table = [rows[kind] for kind in kinds() if kind in rows]
    head = _HEAD.format(version=transformers.__version__)
    PAGE.write_text(head + "\n".join(table) + "\n", encoding="utf-8")


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of a page by their kind."""
    return {row.split(" | ")[0][2:]: row for row in text.splitlines() if _ROW.match(row)}


_ROW = re.compile(r"\| \S+ \| \w+ \| (right|refused|fault|not built) \|")


def _row(verdict: Verdict) -> str:
    gap = max(verdict.gaps.values(), default=0.0) if verdict.outcome == "right" else 0.0
    power = f"1e{math.ceil(math.log10(gap))}" if gap > 0 else ""
    reason = re.sub(r"^(student|teacher): ", "", verdict.reason).replace("|", "/")
    # digits that another machine may round otherwise
    reason = re.sub(r" ?\((they differ by|by) [\d.]+%[^)]*\)", "", reason)
    return f"| {verdict.kind} | {verdict.name} | {verdict.outcome} | {power} | {reason} |"
