"""The page in a browser: what a person sees is what the tables hold, and what models write is text.

Every page is opened from the disk with the network off, as a person opens one that was sent.
"""

import http.client
import importlib.util
import json
import math
import shutil
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tip.pipeline.progress import Reporter
from tip.pipeline.report.command import Request, report
from tip.pipeline.report.serve import server_of
from tip.pipeline.session import Session
from tip.pipeline.show.tables import RunTables
from tip.pipeline.show.texts import Texts
from tip.storage.queries import ask
from tip.storage.runs import RunFolder
from tip.storage.tables import read_table

Open = Callable[..., Any]  # gives `Opened` of conftest.py


def table(run: Session, kind: str, number: int) -> pl.DataFrame:
    pointers = run.run.round(number)
    assert pointers is not None
    keys = pointers.of(kind)
    found = [run.store.find(kind, key) for key in keys]
    return pl.DataFrame(read_table([run.store.path(a, kind) for a in found if a is not None]))


def shown(page: Any, column: str) -> float | None:
    text = page.locator(f"#token dd[data-column={column}]").inner_text()
    return float(text.replace("−", "-").replace(",", "")) if text else None


def test_a_page_opens_offline_asks_for_nothing_and_says_nothing(
    page_file: Path, opened: Open
) -> None:
    look = opened()
    page = look.open(page_file.as_uri())
    page.wait_for_selector("#token .candidates")
    assert page.title() == "looked-at · tip report"
    assert look.said == []
    assert [url for url in look.asked if not url.startswith("file:")] == []


def test_it_is_drawn_within_a_second(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    spent = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert spent < 5000  # a second where nothing else computes; two busy cores are slower


def test_pointing_at_a_token_shows_what_the_tables_hold(
    run: Session, page_file: Path, opened: Open
) -> None:
    tokens, teacher = table(run, "tokens", 1), table(run, "teacher", 1)
    rollout = int(tokens["rollout"][0])
    page = opened().open(f"{page_file.as_uri()}#rollout={rollout}&round=1")
    rows = tokens.filter(rollout=rollout).to_dicts()
    for position in (0, 3, len(rows) - 1):
        page.hover(f"#panes [data-token='{position}']")
        page.wait_for_selector(f"#token[data-token='{position}']")
        row = rows[position]
        for column in ("student_entropy", "reverse_kl", "forward_kl", "jsd", "teacher_logprob"):
            assert shown(page, column) == pytest.approx(row[column], rel=1e-3, abs=1e-9)
        assert shown(page, "teacher_rank") == row["teacher_rank"]
        assert shown(page, "advantage") == pytest.approx(
            row["teacher_logprob"] - row["student_logprob"], rel=1e-3, abs=1e-6
        )
        support = teacher.filter(rollout=rollout, position=position).to_dicts()[0]
        stored = dict(zip(support["ids"], support["logprobs"], strict=True))
        for line in page.locator("#token tr[data-id]").all():
            student, taught = (share(cell) for cell in line.locator(".part").all_inner_texts())
            token = int(line.get_attribute("data-id"))
            assert taught == pytest.approx(math.exp(stored[token]), abs=0.002)
            if token == row["token"]:
                assert student == pytest.approx(math.exp(row["student_logprob"]), abs=0.002)


def share(text: str) -> float:
    return 0.0 if text.startswith("<") else float(text.removesuffix(" %")) / 100


def test_the_students_candidates_are_a_distribution(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    for position in (0, 5, 9):
        page.hover(f"#panes [data-token='{position}']")
        page.wait_for_selector(f"#token[data-token='{position}']")
        for who in (0, 1):
            parts = page.locator("#token .candidates tbody tr").all()
            total = sum(share(part.locator(".part").nth(who).inner_text()) for part in parts)
            assert total == pytest.approx(1, abs=0.01)


def test_what_the_seconds_went_into_is_drawn_by_stage(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    chart = page.locator("#cost-bars", has_text="What the seconds went into")
    chart.wait_for()
    words = chart.inner_text()
    assert all(word in words for word in ("computing", "loading", "waiting", "writing", "train"))


def test_rules_and_underlines_are_those_of_the_selection(
    run: Session, page_file: Path, opened: Open
) -> None:
    selection = table(run, "selection", 0)
    rollout = int(selection["rollout"][0])
    page = opened().open(f"{page_file.as_uri()}#rollout={rollout}&round=0")
    page.wait_for_selector(".token.chosen[data-token]")
    marked = page.eval_on_selector_all(
        ".token.chosen[data-token]", "all => all.map(one => Number(one.dataset.token))"
    )
    assert marked == selection.filter(rollout=rollout)["position"].to_list()


def test_a_brush_gives_a_condition_that_selects_the_same_tokens(
    run: Session, page_file: Path, opened: Open
) -> None:
    page = opened().open(page_file.as_uri())
    box = page.locator("#plane-drawing svg").bounding_box()
    page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.up()
    page.wait_for_selector("#region-count")
    where = page.locator("#region .copyable code").first.inner_text()
    query = f"SELECT round, rollout, position FROM tokens WHERE trainable AND {where}"
    with RunTables(run.run).opened(["tokens"]) as connection:
        answer = ask(connection, query).to_pylist()
    found = {(a["round"], str(a["rollout"]), a["position"]) for a in answer}
    assert len(found) > 3
    assert int(page.locator("#region-count").get_attribute("data-count")) == len(found)
    listed = page.eval_on_selector_all(
        ".contexts li",
        "all => all.map(({dataset: d}) => [Number(d.round), d.rollout, Number(d.position)])",
    )
    assert {tuple(each) for each in listed} <= found
    assert len(listed) == min(40, len(found))


def test_the_same_prompt_is_followed_over_rounds_and_set_beside(
    page_file: Path, opened: Open
) -> None:
    page = opened().open(page_file.as_uri())
    page.click("#over-rounds button:has-text('round 1')")
    page.wait_for_selector("#over-rounds button[aria-pressed=true]:has-text('round 1')")
    assert "round=1" in page.url
    page.select_option("#rollout-controls label:has-text('Beside it') select", "round:0")
    page.wait_for_selector("#panes.two")
    assert [h.split(", ")[1] for h in page.locator(".pane h3").all_inner_texts()] == [
        "round 1",
        "round 0",
    ]


def test_a_link_shows_another_reader_the_same(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    page.select_option("#rollout-controls label:has-text('Colour by') select", "reverse_kl")
    page.click("#panes [data-token='4']")
    page.keyboard.press("Tab")
    again = opened().open(page.url)
    again.wait_for_selector("#token[data-token='4']")
    assert again.locator("#legend").inner_text() == page.locator("#legend").inner_text()
    assert "reverse KL (nats)" in again.locator("#legend").inner_text()


def test_a_keyboard_reaches_every_token(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    page.focus("#panes .text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#token[data-token='2']")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#token[data-token='1']")
    said = page.locator("#said[aria-live=polite]").inner_text()
    assert said.startswith(page.locator("#panes [data-token='1']").inner_text().strip())
    assert "reverse KL" in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_scrolls_down_only(page_file: Path, opened: Open, scheme: str) -> None:
    page = opened(400, color_scheme=scheme).open(page_file.as_uri())
    page.wait_for_selector("#token .candidates")
    assert page.evaluate("document.documentElement.scrollWidth") == 400


HOSTILE = "</script><img src=x onerror='window.taken=1'><b>&amp;\u202e\u2028"


def test_what_models_write_is_text(
    request_of: Callable[..., Request],
    opened: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Texts, "of", lambda self, token: HOSTILE)
    path = tmp_path / "hostile.html"
    report(request_of(), path, None, open_it=False)
    look = opened()
    page = look.open(path.as_uri())
    page.wait_for_selector("#panes [data-token='0']")
    visible = HOSTILE.replace("\u202e", "\\u202e").replace("\u2028", "\\u2028")
    assert page.locator("#panes [data-token='0']").text_content() == visible
    page.click("#region-controls button:has-text('Q1')")
    assert page.evaluate("window.taken") is None
    assert page.locator("main img").count() == 0
    assert look.said == []


def test_a_bundle_reads_a_rollout_when_it_is_looked_at(
    request_of: Callable[..., Request], opened: Open, tmp_path: Path
) -> None:
    report(request_of(), None, tmp_path / "bundle", open_it=False)
    look = opened()
    page = look.open((tmp_path / "bundle" / "index.html").as_uri())
    page.wait_for_selector("#token .candidates")
    assert sum("/sheets/" in url for url in look.asked) == 1
    page.click("text=next ›")
    page.wait_for_selector("#panes .text[data-place='1']")
    assert sum("/sheets/" in url for url in look.asked) == 2
    assert look.said == []


def test_a_served_page_follows_its_run(
    run: Session, request_of: Callable[..., Request], opened: Open
) -> None:
    server = server_of(request_of(rules="q3", student=False), 0, Reporter(quiet=True))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    path = run.run.metrics_path
    before = path.read_bytes()
    try:
        look = opened(online=True)
        page = look.open(f"http://127.0.0.1:{server.server_port}/#by=jsd")
        assert "67 min" not in page.locator("#tiles").inner_text()
        line = {"round": 2, "stage": "evaluate teacher", "seconds": 4000.0}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        page.wait_for_selector("#tiles:has-text('67 min')")
        assert "by=jsd" in page.url
    finally:
        path.write_bytes(before)
        server.shutdown()
        server.server_close()
        thread.join()


def test_two_runs_stand_side_by_side_on_the_same_rollout(
    run: Session, opened: Open, tmp_path: Path
) -> None:
    source = Path(run.config.runs) / run.config.name
    for name in ("one", "other"):
        shutil.copytree(source, tmp_path / name)
        record = json.loads((source / "config.json").read_text())
        record.pop("seal")
        record["config"]["name"] = name
        (tmp_path / name / "config.json").write_text(json.dumps(record))
    request = Request(("one", "other"), str(tmp_path), 8, "q3", student=False)
    report(request, tmp_path / "two.html", None, open_it=False)
    page = opened().open((tmp_path / "two.html").as_uri())
    page.select_option("#rollout-controls label:has-text('Beside it') select", "run:1")
    page.wait_for_selector("#panes.two")
    assert page.locator(".pane h3").all_inner_texts() == ["one, round 0", "other, round 0"]
    texts = [pane.locator("[data-token]").all_inner_texts() for pane in page.locator(".pane").all()]
    assert texts[0] == texts[1]
    page.select_option("#runs select", "1")
    page.wait_for_selector("h1:has-text('other')")


def test_a_server_answers_this_machine_alone(request_of: Callable[..., Request]) -> None:
    request = request_of(rules="q3", student=False, rollouts=2)
    server = server_of(request, 0, Reporter(quiet=True))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    try:
        assert server.server_address[0] == "127.0.0.1"
        statuses = []
        asked = [("localhost", "/"), ("localhost", "/etc/passwd"), ("elsewhere.example", "/stamp")]
        for host, path in asked:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers={"Host": f"{host}:{port}"})
            statuses.append(connection.getresponse().status)
            connection.close()
        assert statuses == [200, 404, 403]
    finally:
        server.shutdown()
        server.server_close()


def test_pictures_of_the_documentation_can_be_taken(
    page_file: Path, opened: Open, tmp_path: Path
) -> None:
    file = Path(__file__).parents[3] / "docs" / "make_pictures.py"
    spec = importlib.util.spec_from_file_location("make_pictures", file)
    assert spec is not None
    assert spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pictures  # its dataclass looks itself up
    spec.loader.exec_module(pictures)
    page = opened().page
    for picture in pictures.PICTURES:
        if picture.name in ("overview", "narrow"):
            path = pictures.take(page, page_file, picture, tmp_path)
            width, height = struct.unpack(">II", path.read_bytes()[16:24])
            assert (width, height) == (picture.width, picture.height)
    shown_here = {picture.name for picture in pictures.PICTURES}
    there = {path.stem for path in (file.parent / "pictures").glob("*.png")}
    assert shown_here <= there


def test_an_address_that_asks_for_what_is_not_here_shows_the_beginning(
    page_file: Path, opened: Open
) -> None:
    look = opened()
    words = "by=__proto__&window=x&token=-5&plane=99&region=a,b,1&beside=run:9&marks=q9&run=7"
    page = look.open(f"{page_file.as_uri()}#{words}&rollout=%3Cimg%3E&round=%&theme=blue&x")
    page.wait_for_selector("#token[data-token='0'] .candidates")
    assert look.said == []


def test_rollouts_are_listed_as_they_are_asked_for(page_file: Path, opened: Open) -> None:
    page = opened().open(page_file.as_uri())
    rows = page.locator("#rollout-list tbody tr")
    assert rows.count() == 32
    page.select_option("#rollout-filters label:has-text('Round') select", "1")
    assert rows.count() == 16
    page.click("#rollout-list th button:has-text('KL')")
    found = [
        float(text) for text in page.locator("#rollout-list td:nth-child(4)").all_inner_texts()
    ]
    assert found == sorted(found, reverse=True)
    page.fill("#rollout-filters input", "no rollout begins so")
    assert page.locator("#rollout-list").inner_text().endswith("None of them.")


@pytest.mark.parametrize("stages", [("rollout",), ("rollout", "score")])
def test_a_run_in_the_middle_of_its_first_round_is_shown(
    run: Session, stages: tuple[str, ...], opened: Open, tmp_path: Path
) -> None:
    begun, whole = RunFolder(tmp_path / "runs", "begun"), run.run.round(0)
    record = run.run.about()
    assert record is not None
    assert whole is not None
    begun.save(record.model_copy(update={"config": record.config | {"name": "begun"}}))
    begun.point(0, rollouts=whole.rollouts)
    if "score" in stages:
        begun.point(0, teacher=whole.teacher, tokens=whole.tokens)
    for line in run.run.metrics():
        if line["round"] == 0 and line["stage"] in stages:
            begun.append(line)
    path = tmp_path / "begun.html"
    request = Request(("begun",), str(tmp_path / "runs"), rules="q3", student=False)
    report(request, path, None, open_it=False)
    look = opened()
    page = look.open(path.as_uri())
    assert "0 of 2 rounds are trained so far" in page.locator("#alarms").inner_text()
    if "score" in stages:
        page.click("#region-controls button:has-text('Q1')")
        page.wait_for_selector("#region-count")
        assert page.locator("#panes [data-token]").count() > 0
    else:
        assert page.locator("#panes").inner_text() == "No round is scored yet."
    assert look.said == []
