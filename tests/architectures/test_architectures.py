"""Every architecture is right or refused before any work."""

from collections.abc import Iterator

import page
import pytest
import transformers
from apart import judge_apart
from recipes import UNBUILDABLE, kinds
from verdicts import Verdict

# One of each way to differ: caps, scales, windows, sinks, biases by distance, experts, latent
# attention, activations with buffers, convolutions, changing rotations, linear attention.
QUICK = (
    *("llama", "gemma2", "gemma3_text", "granite", "cohere2", "gpt2", "gpt_oss", "bloom"),
    *("mixtral", "deepseek_v3", "apertus", "lfm2", "phi3+longrope", "qwen3_next"),
)


def _refuse_faults(verdict: Verdict) -> None:
    assert verdict.outcome != "fault", f"{verdict.reason}\n{verdict.trace}"
    assert (verdict.outcome == "not built") == (verdict.kind in UNBUILDABLE)


@pytest.mark.parametrize("kind", QUICK)
def test_a_usual_architecture_is_right(kind: str) -> None:
    verdict = judge_apart(kind)
    _refuse_faults(verdict)
    assert verdict.outcome == "right"


@pytest.fixture(scope="module")
def judged() -> Iterator[list[Verdict]]:
    """Yield a list for verdicts, which are put into the page in the end: one process has them."""
    verdicts: list[Verdict] = []
    yield verdicts
    if verdicts:
        page.write(verdicts)


@pytest.mark.soak
@pytest.mark.parametrize("kind", kinds())
def test_every_architecture_is_right_or_refused_before_any_work(
    judged: list[Verdict], kind: str
) -> None:
    verdict = judge_apart(kind)
    judged.append(verdict)
    _refuse_faults(verdict)


def test_the_page_has_a_row_for_each_architecture() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__} maps" not in text:
        pytest.skip("the page is of another version of transformers, which maps others")
    assert list(page.rows_of(text)) == kinds()
