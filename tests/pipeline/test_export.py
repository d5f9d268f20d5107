"""An exported student is the run's own, whole or not at all, in whatever type; so is an adapter."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer
from peft import PeftModel
from safetensors.torch import load_file
from tip.pipeline.export import export_and_show
from tip.pipeline.rounds.branching import branch
from tip.pipeline.session import Session, open_session
from tip.storage.errors import ConfigError, StoreError, TipError
from tip.storage.runs import RunFolder
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_pair import needs_vllm, widened

from .conftest import PAIR, MakeConfig, artifacts, played

WEIGHTS = "model.safetensors"
SMALL = {"rollout": {"prompts": 32}}
LORA = {"lr": 3e-3, "lora": {"rank": 4, "alpha": 8}}


@pytest.fixture(scope="module")
def whole(shared: MakeConfig) -> Session:
    """Return a run of three rounds, exported in bfloat16, that keeps the states of two."""
    return played(shared(rounds=3, train={"keep_states": 2}, **SMALL))


@pytest.fixture(scope="module")
def adapters(shared: MakeConfig) -> Session:
    """Return a run of adapters whose checkpoints are float32."""
    return played(
        shared("lora", train=LORA | {"export_dtype": "float32", "keep_states": 2}, **SMALL)
    )


def export(
    session: Session, origin: str, folder: Path, *, adapter: bool = False, dtype: str | None = None
) -> Path:
    export_and_show(origin, str(folder), session.config.runs, adapter=adapter, dtype=dtype)
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(2, 30)[None]).logits.float()


def same(found: Tensor, expected: Tensor) -> bool:
    """Tell whether logits are within 1e-5 of the largest: float32 keeps no more of unmerged ones.

    Absolute, of logits up to 13.6, merged and unmerged are 1.05e-5 apart, and each of them is
    9e-6 from the same model in float64.
    """
    return bool((found - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item()))


def read(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def test_the_folder_is_the_checkpoint_after_so_many_rounds_with_all_that_belongs_to_it(
    whole: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for origin, number in (("run", 2), ("run@3", 2), ("run@1", 0)):
        folder = export(whole, origin, tmp_path / origin)
        checkpoint = artifacts(whole, "checkpoint")[number]
        sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
        assert sizes.pop("README.md") > 1000
        assert sizes == {part.name: part.bytes for part in checkpoint.parts.values()}
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"run@{number + 1} is in {folder}: ")
        assert f"bfloat16. Next: vllm serve {folder}" in lines[0]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    read(tmp_path / "run")
    ours, first = (AutoTokenizer.from_pretrained(p) for p in (tmp_path / "run", PAIR / "student"))
    assert ours.get_vocab() == first.get_vocab()
    assert ours.chat_template == first.chat_template


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_type_is_made_of_the_masters(whole: Session, tmp_path: Path, dtype: str) -> None:
    found = load_file(export(whole, "run", tmp_path / "a", dtype=dtype) / "model.safetensors")
    stored = load_file(export(whole, "run", tmp_path / "b") / "model.safetensors")
    key = artifacts(whole, "checkpoint")[-1].key
    masters = load_file(whole.run.state_path(key) / "state.safetensors")
    assert found.keys() == stored.keys()
    for name, value in found.items():
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value, masters[f"master.{name}"].to(value.dtype))
        assert torch.equal(masters[f"master.{name}"].to(torch.bfloat16), stored[name])
    assert read(tmp_path / "a", torch.float32) is not None


def test_what_float32_checkpoints_hold_needs_no_state(
    adapters: Session, shared: MakeConfig, tmp_path: Path
) -> None:
    run = shutil.copytree(adapters.run.path, tmp_path / "runs" / "lora")
    shutil.rmtree(run / "states")
    export_and_show("lora", str(tmp_path / "a"), str(run.parent), adapter=False, dtype="bfloat16")
    export_and_show("lora", str(tmp_path / "b"), str(run.parent), adapter=False, dtype="float32")
    ours, stored = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name, value in ours.items():
        assert torch.equal(value, stored[name].to(torch.bfloat16))


def test_merged_in_float32_adapters_give_what_was_rounded_to_the_checkpoint(
    shared: MakeConfig, tmp_path: Path
) -> None:
    session = played(shared("narrow", rounds=1, train=LORA, **SMALL))
    full = load_file(export(session, "narrow", tmp_path / "a", dtype="float32") / WEIGHTS)
    stored = load_file(export(session, "narrow", tmp_path / "b") / WEIGHTS)
    assert any(not torch.equal(v, v.to(torch.bfloat16).float()) for v in full.values())
    for name, value in full.items():
        assert torch.equal(value.to(torch.bfloat16), stored[name])


@pytest.mark.parametrize("number", [1, 2])
def test_a_peft_model_over_the_first_student_is_the_merged_export(
    adapters: Session, tmp_path: Path, number: int
) -> None:
    origin = f"lora@{number}"
    folder = export(adapters, origin, tmp_path / "adapter", adapter=True)
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    merged = logits(read(export(adapters, origin, tmp_path / "merged")))
    first = read(PAIR / "student")
    assert (logits(first) - merged).abs().max() > 1e-2
    beside = PeftModel.from_pretrained(first, folder)
    assert same(logits(beside), merged)
    assert torch.equal(logits(beside.merge_and_unload()), merged), "peft's own merge, to the bit"


def test_an_adapter_says_what_it_stands_beside(
    adapters: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftConfig

    folder = export(adapters, "lora", tmp_path / "adapter", adapter=True)
    config: Any = PeftConfig.from_pretrained(str(folder))
    assert config.base_model_name_or_path == str((PAIR / "student").resolve())
    assert (config.r, config.lora_alpha, config.inference_mode) == (4, 8, True)
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card
    assert "| weights | adapters of rank 4 |" in card
    assert "tip export lora@2 FOLDER --adapter" in card
    assert config.target_modules == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert "adapters of rank 4, float32. Next: in Python PeftModel.from_pretrained" in (
        capsys.readouterr().out
    )


def test_where_a_last_name_would_mean_other_layers_too_whole_names_are_written(
    shared: MakeConfig, tmp_path: Path
) -> None:
    lora = LORA["lora"] | {"targets": ["layers.0.self_attn.q_proj"]}  # type: ignore[operator]
    train = LORA | {"lora": lora, "export_dtype": "float32"}
    session = played(shared("one", rounds=1, train=train, **SMALL))
    merged = logits(read(export(session, "one", tmp_path / "merged")))
    folder = export(session, "one", tmp_path / "adapter", adapter=True)
    found = PeftModel.from_pretrained(read(PAIR / "student"), folder)
    assert same(logits(found), merged)
    assert sum(".lora_A." in name for name, _ in found.named_parameters()) == 1


def test_a_branch_finds_the_state_of_the_rounds_that_it_shares(
    whole: Session, shared: MakeConfig, tmp_path: Path
) -> None:
    branch(open_session(shared("late", rounds=3, **SMALL)), "run@2")
    shutil.rmtree(RunFolder(whole.config.runs, "late").path / "states")
    export(whole, "late@2", tmp_path / "a", dtype="float32")
    export(whole, "run@2", tmp_path / "b", dtype="float32")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("origin", "options", "said"),
    [
        ("nobody", {}, "export nobody: there is no run nobody"),
        ("run@4", {}, "has 3 trained rounds; expected run@1 to run@3"),
        ("run@0", {}, "has 3 trained rounds; expected run@1 to run@3"),
        ("run@x", {}, "export run@x: expected RUN@N"),
        ("../run", {}, "expected letters, digits"),
        ("run", {"adapter": True}, "trained without train.lora, so there is no adapter"),
        ("run", {"dtype": "int8"}, "--dtype int8: expected float32, bfloat16, float16"),
        ("run@1", {"dtype": "float32"}, "gone; those of run@2, run@3 are here.*keep_states = 2"),
        ("lora", {"adapter": True, "dtype": "float16"}, "--adapter writes float32 masters"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    whole: Session, adapters: Session, tmp_path: Path, origin: str, options: Any, said: str
) -> None:
    with pytest.raises(TipError, match=said) as it:
        export(whole, origin, tmp_path / "folder", **options)
    assert "\n" not in str(it.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_trained_round_is_told(config: MakeConfig, tmp_path: Path) -> None:
    session = open_session(config())
    from tip.pipeline.rounds.single import rollout_round

    rollout_round(session, 0)
    with pytest.raises(ConfigError, match="tip export run: run run has no trained round yet"):
        export(session, "run", tmp_path / "folder")


def test_a_store_that_is_not_here_is_told_with_the_way_out(
    whole: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = shutil.copytree(whole.run.path.parent, tmp_path / "runs")
    run = RunFolder(runs, "run")
    record = run.about()
    assert record is not None
    run.save(record.model_copy(update={"config": record.config | {"store": "somewhere"}}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="its store = 'somewhere' is not here: call tip export"):
        export_and_show("run", "out", str(runs), adapter=False, dtype=None)


def test_a_folder_that_holds_something_is_left_alone_and_an_empty_one_taken(
    whole: Session, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, said in (("full", "is there and not empty"), ("file", "is a file")):
        with pytest.raises(ConfigError, match=said):
            export(whole, "run", tmp_path / name)
    with pytest.raises(ConfigError, match="expected a folder of this machine"):
        export_and_show("run", "s3://b/x", whole.config.runs, adapter=False, dtype=None)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert (export(whole, "run", tmp_path / "empty") / WEIGHTS).is_file()


def test_a_damaged_state_is_named_and_nothing_remains(
    whole: Session, shared: MakeConfig, tmp_path: Path
) -> None:
    runs = shutil.copytree(whole.run.path.parent, tmp_path / "runs")
    key = artifacts(whole, "checkpoint")[-1].key
    path = RunFolder(runs, "run").state_path(key) / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="its numbers are not those that were written"):
        export_and_show("run", str(tmp_path / "out"), str(runs), adapter=False, dtype="float32")
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}


def test_a_disk_that_fails_leaves_nothing_and_is_one_line(
    whole: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tip.pipeline.export.shutil.copyfile", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
        export(whole, "run", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


SERVE = """
import json, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model, *adapter = sys.argv[1:]
    more = {"enable_lora": True, "max_lora_rank": 8} if adapter else {}
    llm = LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=64, **more)
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    request = LoRARequest("adapter", 1, adapter[0]) if adapter else None
    prompt = {"prompt_token_ids": list(range(2, 30))}
    (answer,) = llm.generate([prompt], asked, lora_request=request)
    found = zip(range(3, 30), answer.prompt_logprobs[1:])
    print(json.dumps([place[token].logprob for token, place in found]))
"""


def served(folder: Path, *arguments: Path) -> Tensor:
    """Return vLLM's log-probs of known tokens, computed in a process of its own."""
    (folder / "serve.py").write_text(SERVE)
    command = [sys.executable, str(folder / "serve.py"), *map(str, arguments)]
    more = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCH_COMPILE_DISABLE": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | more)
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.soak
@needs_vllm
def test_vllm_serves_what_is_exported_and_the_adapter_beside_its_base(
    config: MakeConfig, tmp_path: Path
) -> None:
    first = widened(PAIR / "student", tmp_path / "first")
    train = LORA | {"export_dtype": "float32"}
    session = played(config(student={"model": str(first)}, rounds=1, train=train, **SMALL))
    merged = export(session, "run", tmp_path / "merged")
    adapter = export(session, "run", tmp_path / "adapter", adapter=True)
    ids = torch.arange(2, 30)
    expected = logits(read(merged))[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    before = served(tmp_path, first)
    assert (served(tmp_path, merged) - expected).abs().max() < 1e-4
    assert (served(tmp_path, first, adapter) - expected).abs().max() < 1e-3
    assert (before - expected).abs().max() > 1e-2


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty store that a server on loopback holds."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TIP_CACHE", str(tmp_path / "cache"))
    client = fsspec.get_filesystem_class("s3")
    client.clear_instance_cache()  # instances keep the address that they were made with
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("tip-export")
    yield "s3://tip-export/store"
    client.clear_instance_cache()
    server.stop()


def test_a_remote_store_is_exported_from_like_a_local_one(
    bucket: str, config: MakeConfig, tmp_path: Path
) -> None:
    train = LORA | {"export_dtype": "float32"}
    session = played(config(store=bucket, rounds=1, train=train, **SMALL))
    shutil.rmtree(tmp_path / "cache")
    merged = logits(read(export(session, "run", tmp_path / "merged")))
    adapter = export(session, "run", tmp_path / "adapter", adapter=True)
    found = logits(PeftModel.from_pretrained(read(PAIR / "student"), adapter))
    assert same(found, merged)
