"""vLLM computes what the trainer computes, or says why not, for every architecture that is right.

    python -m pytest -m soak tests/architectures/test_in_vllm.py [-k KIND]

Models that read images need torchvision beside vLLM, of the same build as torch.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import page
import pytest
from forked import Forked
from in_vllm import LIMIT, InVllm, refused, spec_of
from published import AGREES, FAILS, GROSS, PUBLISHED
from recipes import kinds, tiny_config
from tip.stages.engines.child import Child
from vllm_pair import needs_vllm

HERE = Path(__file__).parent
SECONDS = 400.0  # beyond those that a verdict may take


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    """Yield the process that answers kinds with verdicts."""
    environment = spec_of(HERE, 1).environment() | {"HF_HUB_OFFLINE": "1"}
    paths = [HERE, HERE.parent / "stages", *_package()]
    before = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *before])
    child = Child([str(HERE / "serving.py")], environment=environment)
    yield child
    child.end(5.0)


def _package() -> list[Path]:
    import tip

    return [Path(str(tip.__file__)).parents[1]]


@pytest.fixture(scope="module")
def judged() -> Iterator[list[InVllm]]:
    """Yield a list for verdicts, which are put into the page in the end: one process has them."""
    verdicts: list[InVllm] = []
    yield verdicts
    if verdicts:
        page.write(in_vllm=verdicts)


@needs_vllm
@pytest.mark.soak
@pytest.mark.parametrize("kind", page.right())
def test_vllm_agrees_or_it_is_known_why_not(server: Child, judged: list[InVllm], kind: str) -> None:
    server.send(kind)
    verdict = server.receive(SECONDS)
    judged.append(verdict)
    said = verdict.outcome in ("agrees", "unknown") or verdict.reason
    assert said or kind in (GROSS if verdict.outcome == "gross" else FAILS), verdict


def test_rows_are_of_kinds_that_are_right_and_a_gross_gap_has_what_was_found_out() -> None:
    rows = page.rows_in_vllm(page.PAGE.read_text(encoding="utf-8"))
    assert rows
    assert list(rows) == [kind for kind in page.right() if kind in rows]
    gross = {kind for kind, row in rows.items() if row.split(" | ")[1] == "gross"}
    assert gross <= GROSS.keys()
    assert {*PUBLISHED, *AGREES, *GROSS, *FAILS} <= {*kinds()}


def test_a_row_of_another_page_section_is_never_taken_for_one_of_vllm() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    ours = page.rows_in_vllm(text)
    assert not {*ours.values()} & {*page.rows_of(text).values()}


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        ("f: vLLM failed (KeyError: 'q')", "fails", "KeyError: 'q'"),
        (
            "f: vLLM cannot run this model (NotImplementedError: no X on it); set engine = 'x'",
            "fails",
            "NotImplementedError: no X on it",
        ),
        (
            "f: vLLM failed (NotImplementedError: X is not supported on CPU.)",
            "not on this CPU",
            "NotImplementedError: X is not supported on CPU",
        ),
        (
            "f: vLLM cannot run this model (Model architectures ['A'] are not supported for now. "
            "Supported architectures: dict_keys(['B', ...); set engine = 'transformers'",
            "unknown",
            "",
        ),
    ],
)
def test_an_error_becomes_a_row_in_vllms_words(said: str, outcome: str, reason: str) -> None:
    assert refused("llama", said) == InVllm("llama", outcome, reason=reason)  # type: ignore[arg-type]


def test_a_gap_above_the_limit_is_a_number_and_one_below_a_power_of_ten() -> None:
    rows = [page.row_in_vllm(InVllm("llama", "agrees", gap, 2e-7)) for gap in (9e-7, LIMIT / 2)]
    assert [row.split(" | ")[2:4] for row in rows] == [["1e-6", "1e-6"], ["1e-2", "1e-6"]]
    gross = page.row_in_vllm(InVllm("lfm2", "gross", 0.7107, 0.252))
    assert gross.split(" | ")[2:4] == ["0.71", "0.25"]


@pytest.mark.parametrize("kind", ["llama", "qwen2_vl", "phi3+longrope", "falcon_h1"])
def test_a_wider_model_has_as_many_heads_of_four_times_the_numbers(kind: str) -> None:
    narrow, wide = (tiny_config(kind, times).get_text_config() for times in (1, 4))
    assert wide.num_attention_heads == narrow.num_attention_heads
    assert wide.hidden_size == 4 * narrow.hidden_size
    heads = [c.hidden_size // c.num_attention_heads for c in (narrow, wide)]
    assert heads == [8, 32]


def test_a_fork_shows_how_it_ended_as_a_process_does() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    assert Forked(pid).wait(5.0) == 7
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    fork = Forked(pid)
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.05)
    fork.kill()
    assert fork.wait(5.0) == -9
    assert fork.poll() == -9
