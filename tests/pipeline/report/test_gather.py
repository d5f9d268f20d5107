"""What a report reads of a run, and that it changes nothing by reading."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tip.pipeline.progress import Reporter
from tip.pipeline.report.command import Request, report
from tip.pipeline.report.gather import Wanted, gathered
from tip.pipeline.report.pack import as_json
from tip.pipeline.report.picked import picked
from tip.pipeline.report.plane import counted, spread
from tip.pipeline.report.sheets import _bits
from tip.pipeline.report.source import Source, open_source
from tip.pipeline.session import Session
from tip.storage.errors import ConfigError, StoreError, TipError
from tip.storage.runs import RunFolder


@pytest.fixture(scope="module")
def source(run: Session) -> Source:
    return open_source(run.config.name, run.config.runs, Reporter(quiet=True))


def unpacked(values: list[str]) -> np.ndarray:
    import base64

    kinds = {"f4": "<f4", "u4": "<u4", "u2": "<u2", "u1": "<u1", "i4": "<i4"}
    return np.frombuffer(base64.b64decode(values[1]), kinds[values[0]])


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_looking_changes_nothing(
    run: Session, request_of: Callable[..., Request], tmp_path: Path
) -> None:
    folders = Path(run.config.store), Path(run.config.runs)
    before = [contents(folder) for folder in folders]
    report(request_of(student=True), tmp_path / "a.html", None, open_it=False)
    assert [contents(folder) for folder in folders] == before


def test_every_token_is_in_the_plane_and_every_chosen_one(source: Source) -> None:
    found = counted(source)
    assert found is not None
    for number, plane in found["rounds"].items():
        select = source.metrics[number].select
        assert select is not None
        assert unpacked(plane["tokens"]).sum() == select.trainable
        assert unpacked(plane["chosen"]).sum() == select.kept
        places = found["places"][number]
        assert np.sum(places["tokens"]) == select.trainable
        by_type = np.sum(places["tokens"], axis=1) / select.trainable
        assert select.types is not None
        shares = [of["tokens"] for of in select.types.values()]
        assert by_type == pytest.approx(shares, abs=1e-6)


def test_the_mean_of_a_round_is_that_of_its_scores_within_its_interval(source: Source) -> None:
    found = counted(source)
    assert found is not None
    kl = found["kl"]
    for number, mean, half in zip(kl["round"], kl["divergence"], kl["half"], strict=True):
        score = source.metrics[number].score
        assert score is not None
        assert mean == pytest.approx(score.reverse_kl, abs=1e-3)  # clamped at 0 here
        assert 0 < half < mean


def test_prompts_that_come_again_are_shown_in_all_their_rounds(source: Source) -> None:
    found = picked(source, 4, None)
    assert found.count == 4
    assert found.of == 32
    assert found.rollouts[0] == found.rollouts[1]
    assert picked(source, 4, None) == found


def test_a_page_holds_no_more_tokens_than_it_may(source: Source) -> None:
    few = gathered(source, Wanted(1000, 200, [], student=False))
    sheets = list(few.sheets())
    assert 0 < sum(sheet.about["tokens"] for sheet in sheets) <= 200
    assert few.facts["rollouts_of"] == 32


@pytest.mark.parametrize("tokens", [7, 60])
def test_a_rollout_that_is_longer_than_a_page_is_shown_from_its_beginning(
    source: Source, tokens: int
) -> None:
    found = gathered(source, Wanted(1, tokens, ["q3"], student=False))
    (sheet,) = found.sheets()
    assert sheet.about["tokens"] == min(tokens, sheet.about["length"])
    assert len(sheet.tokens["texts"]) == sheet.about["tokens"]
    assert len(unpacked(sheet.tokens["candidates"]["count"])) == sheet.about["tokens"]
    selection = sheet.tokens["selection"]
    assert selection is None or max(unpacked(selection["position"]), default=0) < tokens


def test_numbers_of_a_sheet_are_those_of_the_table(source: Source) -> None:
    found = gathered(source, Wanted(1000, None, ["q3"], student=False))
    sheets = {(s.about["round"], s.about["rollout"]): s for s in found.sheets()}
    assert len(sheets) == 32
    for number in source.scored:
        paths = source.paths("tokens", [number])[number]
        table = pl.concat([pl.read_parquet(path) for path in paths])
        for (rollout,), rows in table.group_by("rollout", maintain_order=True):
            sheet = sheets[number, str(rollout)].tokens
            assert unpacked(sheet["ids"]).tolist() == rows["token"].to_list()
            assert unpacked(sheet["rank"]).tolist() == rows["teacher_rank"].to_list()
            for name, values in sheet["numbers"].items():
                assert unpacked(values).tolist() == rows[name].to_list()
        asked = source.scored_round(number).chosen("q3", 0.25)
        bits = {
            (number, str(rollout)): set(rows["position"])
            for (rollout,), rows in asked.group_by("rollout")
        }
        for key, positions in bits.items():
            found_here = np.flatnonzero(unpacked(sheets[key].tokens["rules"][0]) & 1)
            assert set(found_here.tolist()) == positions


def test_answers_to_the_same_problems_are_found_for_every_round(source: Source) -> None:
    found = gathered(source, Wanted(1, None, [], student=False)).facts["answers"]
    assert found["rounds"] == [0, 1, 2]
    assert len(found["problems"]) == 8
    assert all(set(problem["answers"]) == {0, 1, 2} for problem in found["problems"])
    right = [p["answers"][2]["verdict"] == "right" for p in found["problems"]]
    evaluate = source.metrics[2].evaluate
    assert evaluate is not None
    assert np.mean(right) == evaluate.accuracy


def test_settings_that_are_not_the_default_are_told_apart(source: Source) -> None:
    facts = gathered(source, Wanted(1, None, [], student=False)).facts
    changed = {each["key"]: each["value"] for each in facts["settings"] if each["changed"]}
    assert changed["select.keep"] == 0.25
    assert "select.scope" not in changed
    kinds = {each["kind"] for each in facts["artifacts"]}
    assert kinds == {"rollouts", "teacher", "tokens", "selection", "checkpoint"}


@pytest.mark.parametrize(("count", "most"), [(3, 40), (100, 7), (41, 40)])
def test_rounds_are_spread_from_the_first_to_the_last(count: int, most: int) -> None:
    found = spread(range(count), most)
    assert (found[0], found[-1]) == (0, count - 1)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))


def test_a_run_whose_tokenizer_is_gone_is_shown_by_ids(
    run: Session, request_of: Callable[..., Request], tmp_path: Path
) -> None:
    folder = Path(run.config.runs) / run.config.name
    moved = tmp_path / "runs" / "moved"
    moved.mkdir(parents=True)
    record = json.loads((folder / "config.json").read_text())
    record.pop("seal")
    record["config"]["name"] = "moved"
    record["config"]["student"]["model"] = str(tmp_path / "nowhere")
    (moved / "config.json").write_text(json.dumps(record))
    (moved / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    (moved / "rounds").mkdir()
    for path in (folder / "rounds").iterdir():
        (moved / "rounds" / path.name).write_bytes(path.read_bytes())
    source = open_source("moved", str(tmp_path / "runs"), Reporter(quiet=True))
    found = gathered(source, Wanted(2, None, None, student=True))
    first = next(iter(found.sheets()))
    assert first.tokens["texts"] == [f"#{i}" for i in unpacked(first.tokens["ids"])]
    assert found.facts["rules"] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": ("nobody",)}, "no run nobody"),
        ({"rules": "q4"}, "there is no rule `q4`"),
        ({"output": "/nowhere/at/all/x.html", "bundle": "b"}, "name one of them"),
        ({"output": "."}, "is a folder"),
        ({"bundle": "."}, "is there already"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    run: Session,
    changes: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").write_text("")
    request = Request(
        changes.get("names", (run.config.name,)), run.config.runs, rules=changes.get("rules", "")
    )
    output, bundle = changes.get("output"), changes.get("bundle")
    with pytest.raises(TipError, match=said) as caught:
        report(request, output and Path(output), bundle and Path(bundle), open_it=False)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_a_run_without_a_finished_stage_says_so(run: Session, tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    config = Path(run.config.runs) / run.config.name / "config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    with pytest.raises(ConfigError, match="has finished no stage yet"):
        open_source("begun", str(tmp_path), Reporter(quiet=True))


def test_a_store_that_is_gone_is_named(run: Session, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    folder.mkdir()
    record = json.loads((Path(run.config.runs) / run.config.name / "config.json").read_text())
    record.pop("seal")
    record["config"]["store"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="no such store"):
        open_source("lost", str(tmp_path), Reporter(quiet=True))


def test_a_long_run_stays_a_page_of_less_than_5_mb(
    run: Session, request_of: Callable[..., Request], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "runs", "long")
    record = run.run.about()
    assert record is not None
    config = record.config | {"name": "long", "rounds": 150}
    folder.save(record.model_copy(update={"config": config}))
    lines = [line for line in run.run.metrics() if line["round"] == 1]
    pointers = run.run.round(1)
    assert pointers is not None
    for number in range(150):
        folder.point(number, **pointers.dump())
        for line in lines:
            folder.append(line | {"round": number})
    path = tmp_path / "long.html"
    request = Request(("long",), str(tmp_path / "runs"), rules="random", student=False)
    report(request, path, None, open_it=False)
    assert path.stat().st_size < 2_500_000  # beside 18,000 tokens of 150 bytes or 220


def test_a_token_takes_no_more_of_the_page_than_is_reckoned_with(source: Source) -> None:
    found = gathered(source, Wanted(1000, None, [], student=False))
    sheets = list(found.sheets())
    written = sum(len(as_json(sheet.tokens)) for sheet in sheets)
    assert written < 220 * sum(sheet.about["tokens"] for sheet in sheets)


def test_more_rules_than_a_number_has_bits_are_told_apart() -> None:
    rules = {f"rule {i}": {7: np.array([i, 39 - i])} for i in range(40)}
    first, second = _bits(rules, 7, 30)
    for i in range(40):
        row = first if i < 32 else second
        found = np.flatnonzero(row >> np.uint32(i % 32) & 1)
        assert found.tolist() == sorted({p for p in (i, 39 - i) if p < 30})
    assert len(_bits({}, 7, 30)) == 0
