"""An exported student is a model folder of its own: weights of a type, config, tokenizer, code."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import load, write_model
from tip.stages.train.export import difference, export, likeness, refuse_beyond
from tip.storage.errors import ModelError
from tip.storage.store.drafts import Draft


def exported(folder: Path, out: Path, dtype: str = "bfloat16", *, code: bool = False) -> set[str]:
    """Export the model of a folder; return the names of the files."""
    model = load(folder)
    out.mkdir()
    export(replace(model, card=replace(model.card, code=code)), Draft(out), dtype)
    return {path.name for path in out.iterdir()}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_is_exported_loads_as_the_student_rounded_to_the_type_that_its_config_names(
    tmp_path: Path, tied: bool
) -> None:
    student = write_model(tmp_path / "student", "qwen2", tied=tied)
    config = json.loads((student / "config.json").read_text())
    old = {"torch_dtype": "float32"}  # as older versions of transformers name it
    (student / "config.json").write_text(json.dumps(config | old))
    exported(student, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    expected = {n: p.bfloat16() for n, p in load(student).model.named_parameters()}
    assert ("lm_head.weight" in written) == (not tied)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[n], expected[n]) for n in expected)
    again = json.loads((tmp_path / "out" / "config.json").read_text())
    assert again == config | {"dtype": "bfloat16"}
    found = dict(load(tmp_path / "out", torch.bfloat16).model.named_parameters())
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("architecture", ["apertus", "glm4_moe", "mixtral", "gpt_neox"])
def test_an_export_has_the_names_and_the_buffers_of_its_family(
    tmp_path: Path, architecture: str
) -> None:
    student = write_model(tmp_path / "student", architecture)
    given = load_file(student / "model.safetensors")
    exported(student, tmp_path / "out", "float32")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)


def test_what_is_read_back_is_the_student_rounded(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student", "glm4_moe")
    model = load(student)
    (tmp_path / "out").mkdir()
    export(model, Draft(tmp_path / "out"), "bfloat16")
    assert difference(likeness(model), likeness(load(tmp_path / "out"))) < 1e-6
    weights = load_file(tmp_path / "out" / "model.safetensors")
    bias = next(name for name in weights if name.endswith("e_score_correction_bias"))
    weights[bias][0] += 1
    save_file(weights, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"e_score_correction_bias differs \(1 such tensors\)"):
        difference(likeness(model), likeness(load(tmp_path / "out")))


def test_a_mask_in_the_weights_stays_finite_and_what_a_type_cannot_hold_is_named(
    tmp_path: Path,
) -> None:
    model = load(write_model(tmp_path / "student"))
    name, parameter = next(model.model.named_parameters())
    parameter[5, 0] = torch.finfo(torch.float32).min
    with pytest.raises(
        ModelError, match=rf"{name} holds 3.4e\+38, and float16 at most .*export_dtype"
    ):
        refuse_beyond(model, "float16")
    refuse_beyond(model, "bfloat16")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="float16 at most"):  # grown while it was trained
        export(model, Draft(tmp_path / "out"), "float16")
    export(model, Draft(tmp_path / "out"), "bfloat16")
    written = load_file(tmp_path / "out" / "model.safetensors")[name][5, 0]
    assert written == torch.finfo(torch.bfloat16).min


def test_a_file_that_somebody_put_beside_a_model_stays_behind(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student")
    (student / "training args (copy).json").write_text("{}")
    (student / "generation_config.json").write_text('{"temperature": 0.5, "do_sample": false}')
    names = exported(student, tmp_path / "out")
    assert "training args (copy).json" not in names
    kept = (tmp_path / "out" / "generation_config.json").read_text()
    assert kept == '{"temperature": 0.5, "do_sample": false}'


@pytest.mark.parametrize("code", [False, True])
def test_the_tokenizer_travels_along_and_code_where_it_is_run_but_no_index_of_other_files(
    tmp_path: Path, code: bool
) -> None:
    student = write_model(tmp_path / "student")
    for name in ("own.py", "chat_template.jinja", "model.safetensors.index.json", "README.md"):
        (student / name).write_text("{}")
    names = exported(student, tmp_path / "out", code=code)
    small = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    travelled = {"chat_template.jinja", *small} | ({"own.py"} if code else set())
    assert names == {"model.safetensors", "config.json"} | travelled
    for name in travelled:
        assert (tmp_path / "out" / name).read_bytes() == (student / name).read_bytes()
