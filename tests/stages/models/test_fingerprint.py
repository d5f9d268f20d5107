"""A fingerprint knows everything that changes what a model computes, and nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import change_config
from safetensors.torch import load_file, save_file
from tiny import tokenizer
from tip.stages.models.fingerprint import INDEX, model_fingerprint
from tip.storage.errors import ModelError

WORDS = tokenizer(60).get_vocab()


def fingerprint(folder: Path, words: dict[str, int] = WORDS) -> str:
    return model_fingerprint(folder, words)


def save(folder: Path, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
    save_file(tensors, folder / name, metadata={"format": "pt"})


def test_it_is_the_same_for_a_copy_elsewhere(original: Path, folder: Path) -> None:
    assert fingerprint(folder) == fingerprint(original)


def test_it_is_the_same_for_one_file_and_for_many(original: Path, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors, reverse=True)
    (folder / "model.safetensors").unlink()
    where = {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        save(folder, part, file)
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    assert fingerprint(folder) == fingerprint(original)
    # as transformers does: the index says what is loaded, and beside one whole file nothing else is
    save(folder, {"x": torch.ones(1)}, "consolidated.safetensors")
    assert fingerprint(folder) == fingerprint(original)
    save(folder, tensors)
    assert fingerprint(folder) == fingerprint(original)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, "names '../other/model.safe"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "names '/etc/x.safetensors'"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "names 'pytorch_model.bin'"),
        ({"weight_map": {"a": "model-1.safetensors"}}, "model-1.safetensors, which is not there"),
        ({"weight_map": {}}, "names None"),
        ({"weight_map": {"a": 1}}, "not an index of weights"),
        ({"weight_map": []}, "not an index of weights"),
        ({}, "not an index of weights"),
        ([], "not an index of weights"),
    ],
)
def test_an_index_that_leaves_the_folder_or_is_none_is_refused(
    folder: Path, index: object, said: str
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said) as it:
        fingerprint(folder)
    assert "\n" not in str(it.value)


def test_it_is_the_same_for_another_order_in_the_file_and_other_metadata(
    original: Path, folder: Path
) -> None:
    path = folder / "model.safetensors"
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header, body = json.loads(path.read_bytes()[8 : 8 + size]), path.read_bytes()[8 + size :]
    tensors = [name for name in header if name != "__metadata__"]
    turned, moved, place = {"__metadata__": {"made": "yesterday"}}, b"", 0
    for name in reversed(tensors):
        start, stop = header[name]["data_offsets"]
        turned[name] = header[name] | {"data_offsets": [place, place + stop - start]}
        moved, place = moved + body[start:stop], place + stop - start
    text = json.dumps(turned).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + moved)
    assert torch.equal(
        load_file(path)["lm_head.weight"],
        load_file(original / "model.safetensors")["lm_head.weight"],
    )
    assert fingerprint(folder) == fingerprint(original)


@pytest.mark.parametrize(
    "noise",
    [
        {"transformers_version": "9.9"},
        {"torch_dtype": "float16"},
        {"dtype": "float16"},
        {"use_cache": False},
        {"_name_or_path": "/elsewhere"},
        {"_commit_hash": "abc"},
        {"architectures": ["Other"]},
    ],
    ids=str,
)
def test_it_is_the_same_for_fields_that_compute_nothing(
    original: Path, folder: Path, noise: dict[str, Any]
) -> None:
    change_config(folder, **noise)
    assert fingerprint(folder) == fingerprint(original)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 10001.0, "rope_type": "default"}},
        {"rms_norm_eps": 1e-5},
        {"num_key_value_heads": 2},
        {"tie_word_embeddings": True},
        {"eos_token_id": 2},
    ],
    ids=str,
)
def test_it_differs_for_a_field_that_changes_what_is_computed(
    original: Path, folder: Path, change: dict[str, Any]
) -> None:
    change_config(folder, **change)
    assert fingerprint(folder) != fingerprint(original)


def test_it_differs_for_one_bit_of_one_weight(original: Path, folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert fingerprint(folder) != fingerprint(original)


def test_it_differs_for_another_dtype_shape_or_name_of_a_tensor(
    original: Path, folder: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    found = {fingerprint(original)}
    name = "model.norm.weight"
    other = {k: v for k, v in tensors.items() if k != name}
    for changed in (
        {name: tensors[name].view(torch.int32)},
        {name: tensors[name].reshape(2, 8)},
        {"model.nrom.weight": tensors[name]},
        {},
    ):
        save(folder, other | changed)
        found.add(fingerprint(folder))
    assert len(found) == 5


def test_it_differs_for_two_swapped_or_renamed_tokens(original: Path) -> None:
    swapped = WORDS | {"w5": WORDS["w6"], "w6": WORDS["w5"]}
    renamed = {("w5x" if word == "w5" else word): i for word, i in WORDS.items()}
    assert len({fingerprint(original, words) for words in (WORDS, swapped, renamed)}) == 3


def test_it_does_not_depend_on_the_order_of_the_vocabulary(original: Path) -> None:
    assert fingerprint(original, dict(reversed(WORDS.items()))) == fingerprint(original)


def test_weights_already_hashed_are_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint(folder)
    monkeypatch.setattr("tip.stages.models.fingerprint._tensor_hashes", None)
    assert fingerprint(folder) == first


@pytest.mark.parametrize("damage", ["empty", "changed", "without a seal"])
def test_a_damaged_memo_is_not_believed(
    folder: Path, fingerprint_memo: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    first = fingerprint(folder)
    for memo in (fingerprint_memo / "tip" / "fingerprints").iterdir():
        other = "0" * 64
        texts = {"empty": "", "changed": other + memo.read_text()[64:], "without a seal": other}
        memo.write_text(texts[damage])
    monkeypatch.setattr("tip.stages.models.fingerprint._hashed", {})
    assert fingerprint(folder) == first


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    original: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fingerprint(folder) == fingerprint(original)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\0" * 8,
        (1 << 62).to_bytes(8, "little") + b"{}",
        ((1 << 64) - 1).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe\x00\x01",
        (8).to_bytes(8, "little") + b'{"a": 3}',
        (9).to_bytes(8, "little") + b'{"a": {}}',
    ],
    ids=["empty", "short", "zeros", "long", "longer", "none", "list", "bytes", "number", "bare"],
)
def test_what_is_no_safetensors_file_is_refused_in_one_line(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"model\.safetensors: .*(safetensors file|no tensor)"
    ) as it:
        fingerprint(folder)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("kept", [4, 200, -1])
def test_a_file_that_was_cut_short_is_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="copy it again"):
        fingerprint(folder)


def test_a_folder_without_safetensors_is_refused_with_what_was_found(folder: Path) -> None:
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"found pytorch_model\.bin.*convert them first"):
        fingerprint(folder)


def test_a_kill_while_a_digest_is_remembered_leaves_no_file_for_ever(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise Killed

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(Killed):
            fingerprint(folder)
    monkeypatch.setattr("tip.stages.models.fingerprint._hashed", {})
    assert fingerprint(folder) == fingerprint(folder)
    (memo,) = (tmp_path / "cache" / "tip" / "fingerprints").iterdir()
    assert len(memo.read_text().split()) == 2  # the digest and its seal


@pytest.mark.parametrize("about", ["NaN", "[" * 20_000, '{"data_offsets": [0.0, 1.5]}', "9" * 5000])
def test_a_header_that_no_writer_writes_is_refused(folder: Path, about: str) -> None:
    header = f'{{"a": {about}}}'.encode()
    data = len(header).to_bytes(8, "little") + header + bytes(9)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="not a safetensors file"):
        model_fingerprint(folder, {})


def test_a_config_with_nan_has_no_fingerprint(folder: Path) -> None:
    change_config(folder, rope_theta=float("nan"))
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        model_fingerprint(folder, {})
