"""What is known of a run before any weights: whose prompts, which problems, in which type."""

import json
import shutil
from pathlib import Path

import pytest
from served import Served
from tip.pipeline.checks import check_inputs
from tip.pipeline.config.run import RunConfig
from tip.pipeline.progress import Reporter
from tip.pipeline.session import look_at, open_session
from tip.storage.errors import ConfigError, InputError, TipError
from tip.storage.store.artifacts import Artifact
from tip.storage.store.store import Store
from transformers import AutoTokenizer

from .conftest import PAIR, MakeConfig, artifacts, played, serving


def test_the_type_of_a_server_is_not_that_of_this_device(
    config: MakeConfig, served: Served
) -> None:
    session = played(config("served", **serving(served)))
    assert {a.inputs["dtype"] for a in artifacts(session, "teacher")} == {"torch.bfloat16"}
    said = serving(served)
    said["teacher"]["dtype"] = "float32"
    assert {a.inputs["dtype"] for a in artifacts(played(config("said", **said)), "teacher")} == {
        "torch.float32"
    }


def shard(root: Path, hashes: list[str]) -> Artifact:
    """Return rollouts of prompts with these hashes."""
    return Store(root).ensure("rollouts", {"prompts": hashes}, lambda _: {})[0]


def test_the_teacher_is_shown_its_own_prompts_in_the_order_of_a_shard(
    config: MakeConfig, tmp_path: Path
) -> None:
    inputs = look_at(config(teacher={"format": "{prompt}{answer}"})).inputs
    first, second = inputs.prompts[:2]
    found = inputs.shown(shard(tmp_path, [second.hash, first.hash]))
    assert found == (second.teacher_ids, first.teacher_ids)
    assert all(len(p.teacher_ids) > len(p.ids) for p in (first, second))
    with pytest.raises(ConfigError, match="cannot be filled for 1 prompts"):
        inputs.shown(shard(tmp_path, [first.hash, "of another run"]))


def test_problems_that_nobody_asked_for_are_missed_with_the_way_out(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"no \[evaluate\] section: add one"):
        look_at(config()).inputs.problems  # noqa: B018  # asked for


def test_the_shorter_context_of_both_models_is_the_limit(
    config: MakeConfig, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(PAIR / "teacher", teacher)
    about = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(about | {"max_position_embeddings": 64}))
    short = config(teacher={"model": str(teacher)})
    with pytest.raises(ConfigError, match="the teacher's context of 64 tokens: lower it"):
        check_inputs(open_session(short).inputs)
    own = config(teacher={"model": str(teacher), "format": "{prompt}"}, rollout={"max_tokens": 60})
    with pytest.raises(TipError, match="more than the 4 that fit"):
        check_inputs(open_session(own).inputs)


def retold(folder: Path, **changes: object) -> str:
    """Copy the pair's student into a folder, with another chat template or other special tokens."""
    shutil.copytree(PAIR / "student", folder)
    if template := changes.pop("template", None):
        (folder / "chat_template.jinja").write_text(str(template))
    about = folder / "tokenizer_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | changes))
    return str(folder)


def said(config: RunConfig) -> list[str]:
    lines: list[str] = []
    reporter = Reporter()
    reporter.say = lines.append  # type: ignore[method-assign]
    check_inputs(look_at(config, reporter).inputs)
    return lines


def test_a_template_that_writes_the_date_is_noted_and_its_prompts_do_not_change(
    config: MakeConfig, tmp_path: Path
) -> None:
    template = "{{ strftime_now('%d%m') }}+{% for m in messages %}{{ m.content }}{% endfor %}"
    student = retold(tmp_path / "dated", template=template)
    dated = config(student={"model": student}, prompts={"template": "chat"})
    note = "the chat template writes the date, which is 2024-07-26 in all runs"
    assert any(note in line for line in said(dated))
    assert not any("date" in line for line in said(config()))
    told = retold(
        tmp_path / "told", template=template.replace("strftime_now('%d%m')", "date_string")
    )
    prompts = {"template": "chat", "chat_kwargs": {"date_string": "1203"}}
    own = said(config(student={"model": told}, prompts=prompts))
    assert any(line.endswith("date, which chat_kwargs gives as '1203'") for line in own)


def test_a_part_of_a_data_set_that_is_asked_of_a_file_is_noted(config: MakeConfig) -> None:
    lines = said(config(prompts={"subset": "main", "split": "test"}))
    whole = "a file is read whole: subset = 'main' and split = 'test' would be that of a data set"
    assert any(whole in line for line in lines)
    assert not any("read whole" in line for line in said(config(prompts={"split": "train"})))


def test_samples_that_must_be_equal_are_noted_before_any_work(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    def noted(**changes: object) -> list[str]:
        return [line for line in said(config(**changes)) if "are equal" in line]

    (rollout,) = noted(rollout={"samples": 4, "temperature": 0})
    assert rollout.startswith("note: rollout.samples = 4 with temperature = 0: all samples of a pr")
    (evaluate,) = noted(evaluate=asked | {"samples": 2, "temperature": 1.0, "top_k": 1})
    assert evaluate.startswith("note: evaluate.samples = 2 with top_k = 1: ")
    assert noted(rollout={"samples": 4}, evaluate=asked) == []
    assert noted(rollout={"samples": 4, "temperature": 0, "replay": "other"}) == []


def test_a_prompt_that_ends_with_a_stop_token_is_noted(config: MakeConfig) -> None:
    card = look_at(config()).inputs.student_card
    stop = card.tokenizer.convert_ids_to_tokens(card.stop_ids[0])
    ended = said(config(prompts={"format": "{prompt}" + str(stop)}))
    assert any("prompts end with the stop token" in line for line in ended)


def test_an_id_beyond_the_teachers_embedding_is_refused_before_any_work(
    config: MakeConfig, tmp_path: Path
) -> None:
    student = Path(retold(tmp_path / "student"))
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.add_tokens(["beyond"])
    tokenizer.save_pretrained(student)
    odd = config(student={"model": str(student)}, prompts={"format": "{prompt}beyond"})
    with pytest.raises(InputError, match=r"train.jsonl, line 1: the prompt holds token \d+ .'bey"):
        check_inputs(look_at(odd).inputs)
