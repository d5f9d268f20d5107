"""Whatever stands in a file that a person gives, a case ends in success or in one line."""

import contextlib
import io
import json
import math
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from tip.pipeline.config.toml import load_config
from tip.pipeline.show.listing import print_artifacts, print_sizes
from tip.pipeline.show.query import print_query
from tip.pipeline.show.status import print_run, print_runs
from tip.pipeline.show.verify import verify_store
from tip.stages.select.check import check_selection
from tip.stages.select.select import select, selection_inputs
from tip.stages.select.settings import SelectSettings
from tip.storage.columns import ROLLOUTS, TOKENS
from tip.storage.errors import TipError
from tip.storage.keys import key_of
from tip.storage.runs import RunFolder
from tip.storage.sources.rows import read_rows
from tip.storage.store.artifacts import artifact_key
from tip.storage.store.store import Store
from tip.storage.visible import visible
from token_tables import TABLES, rollout_table, write_parts

from .endings import Forks, forks
from .spoiling import (
    DAMAGE,
    DATE,
    DEEP,
    DIGITS,
    EDITS,
    FEW,
    GONE,
    VALUES,
    attack,
    damaged,
    edited,
    json_text,
)

PAIR = Path(str(files("tip.pipeline.demo") / "pair"))
SAFE = ("none", 0, 0)
PROMPTS = [{"prompt": p, "answer": "1"} for p in ("Q 90-56-23 A", "Q 55-44+59 A", "Q 11+22+33 A")]
CONFIG: dict[str, Any] = {
    "name": "x",
    "rounds": 2,
    "seed": 3,
    "data_seed": 4,
    "store": "store",
    "runs": "runs",
    "device": "cpu",
    "threads": 1,
    "student": {"model": str(PAIR / "student"), "dtype": "float32", "vllm": {"memory": 0.5}},
    "teacher": {"model": str(PAIR / "teacher"), "format": "{prompt}", "dtype": "float32"},
    "prompts": {"source": "p.jsonl", "template": "raw", "format": "{prompt}", "limit": 3},
    "rollout": {"prompts": 2, "max_tokens": 8, "temperature": 1.0, "top_p": 0.9, "stop_ids": [5]},
    "score": {"teacher_top_p": 0.9, "teacher_top_max": 8, "mode": "joint", "check_rows": 1},
    "select": {
        "rule": "soft_or_clipped",
        "keep": 0.2,
        "where": "position > 1",
        "params": {"percentile": 0.9},
        "rollout_weight": "length",
        "entropy_cut": 0.3,
    },
    "train": {"lr": 1e-4, "betas": [0.9, 0.99], "tail": True, "clip": 1.0, "horizon": 9},
    "evaluate": {"source": "p.jsonl", "template": "raw", "max_tokens": 8, "every": 1},
}


def cases(number: int, few: int = FEW) -> pytest.MarkDecorator:
    """Run a test with a few cases that stay the same, and in the soak with many new ones."""
    many = pytest.param(number, id="many", marks=pytest.mark.soak)
    return pytest.mark.parametrize("number", [pytest.param(few, id="few"), many])


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("forks")) as process:
        yield process


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def ended(call: Callable[[], Any]) -> str | None:
    """Return the one line that a call is refused with, None where it is not: there is no other end.

    What it prints has no escape in it.
    """

    def late(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    shown, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(shown):
            call()
    except TipError as refused:
        error = visible(" ".join(str(refused).split()))
        assert error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "\x1b" not in shown.getvalue()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20
    return error


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        raw = {DIGITS: "9" * 5000, DEEP: "[" * 20_000 + "]" * 20_000, DATE: "1979-05-27"}
        return raw.get(value) or json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "1e400" if value is None else str(value)


def toml_file(values: dict[str, Any]) -> bytes:
    plain = [f"{k} = {toml(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            plain += [f"[{name}]", *(f"{k} = {toml(v)}" for k, v in section.items())]
    return "\n".join(plain).encode("utf-8", "surrogatepass")


def seed_of(document: Any, path: tuple[Any, ...], value: Any) -> tuple[list[Any], Any]:
    """Return the case that has another value in one place."""
    from .spoiling import places

    return [(list(places(document)).index(path), value)], SAFE


def same(written: Any, read: Any) -> bool:
    """Tell whether what was read is what was written: a number of the same size, no bool as one."""
    if isinstance(written, dict):
        return all(same(v, read[k]) for k, v in written.items())
    if isinstance(written, list):
        return len(written) == len(read) and all(map(same, written, read))
    if isinstance(read, float) and type(written) is int:
        return written == read
    return type(written) is type(read) and written == read


FIELDS = [
    (k,) if not isinstance(v, dict) else (k, f)
    for k, v in CONFIG.items()
    for f in (v if isinstance(v, dict) else [None])
]
_NUMBER_FIELDS = [
    p
    for p in FIELDS
    if isinstance(CONFIG[p[0]] if len(p) == 1 else CONFIG[p[0]][p[1]], (int, float))
]
BAD_CONFIGS = [
    *(seed_of(CONFIG, p, v) for p in _NUMBER_FIELDS for v in (math.inf, math.nan, "1", DIGITS)),
    *(seed_of(CONFIG, ("select", "keep"), v) for v in (True, "0.2", DATE, DEEP, 1 << 60)),
    seed_of(CONFIG, ("name",), DATE),
    seed_of(CONFIG, ("store",), "\0"),
    seed_of(CONFIG, ("seed",), 1 << 64),
    seed_of(CONFIG, ("train", "lr"), (1 << 53) + 1),
]


@cases(1500)
def test_a_config_is_read_as_it_is_written_or_refused(number: int, here: Path) -> None:
    def act(case: tuple[list[Any], Any]) -> None:
        edits, damage = case
        values = edited(CONFIG, edits)
        text = damaged(toml_file(values), damage)
        Path("x.toml").write_bytes(text)
        read: list[Any] = []
        if ended(lambda: read.append(load_config(Path("x.toml")))) is None and damage[0] == "none":
            assert same(values, read[0].model_dump(mode="json")), values

    attack(number, st.tuples(EDITS, DAMAGE), act, BAD_CONFIGS)


def test_each_number_of_a_config_refuses_what_is_none(here: Path) -> None:
    for edits, _ in BAD_CONFIGS:
        Path("x.toml").write_bytes(toml_file(edited(CONFIG, edits)))
        assert ended(lambda: load_config(Path("x.toml"))) is not None, edits


SETS = [
    "seed=" + "9" * 5000, "seed=" + "[" * 20_000, "seed=3\nrounds=7", "name=a\udcff",
    "select.keep=true", "train.lr=inf", "prompts.chat_kwargs.a=nan", "name=07:32:00.5", "=", "seed",
    "a.b=1", "train=1", "student.model.x=1", "select.params.percentile=nan", ".=.",
    "seed=0x" + "F" * 5000, "store=\0",
]  # fmt: skip


@cases(1000)
def test_a_change_is_taken_as_it_is_written_or_refused(number: int, here: Path) -> None:
    Path("x.toml").write_bytes(toml_file(CONFIG))
    keys = [".".join(map(str, path)) for path in FIELDS]
    values = st.text(max_size=12) | VALUES.map(toml) | st.sampled_from(["\udcff", "1\nx=2", "# x"])
    texts = st.tuples(st.sampled_from(keys) | st.text(max_size=9), values).map("=".join)

    def act(change: str) -> None:
        read: list[Any] = []
        if ended(lambda: read.append(load_config(Path("x.toml"), [change]))) is not None:
            return
        key, _, text = change.partition("=")
        value = read[0].model_dump(mode="json")
        for part in key.strip().split("."):
            value = value[part]
        if isinstance(value, str) and text.strip()[:1] not in ("'", '"'):
            assert value == text  # a bare word is the text itself

    attack(number, texts, act, SETS)


BAD_LINES = [
    *(({"prompt": v, "answer": "1"}, SAFE) for v in (DIGITS, DEEP, "\ud800", "\0", "", None, True)),
    *(({"prompt": v, "answer": 1}, SAFE) for v in (math.inf, math.nan, [1], {}, "x" * 3_000_000)),
    ({"answer": "1"}, SAFE),
    ({"prompt": "a", "answer": "b"}, ("mark", 0, 0)),
    ({"prompt": "é", "answer": "b"}, ("latin", 0, 0)),
]


@cases(1000)
def test_prompts_are_read_as_they_are_written_or_refused(number: int, here: Path) -> None:
    rows = st.fixed_dictionaries({}, optional={"prompt": VALUES, "answer": VALUES, "id": VALUES})
    ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\u2028", "\0"])

    def act(case: tuple[Any, Any, str, str]) -> None:
        row, damage, end, suffix = case
        good = {"prompt": "a", "answer": "b"}
        if suffix == "jsonl":
            lines = [json_text(good), json_text(row), json_text(good)]
        else:
            names = ["prompt", "answer"]
            lines = [",".join(names).encode(), b"a,b"]
            cells = [str(row.get(n, "")) for n in names]
            lines.append(",".join(cells).encode("utf-8", "surrogatepass"))
        path = Path(f"p.{suffix}")
        path.write_bytes(damaged(end.encode().join(lines), damage))
        read: list[Any] = []
        needed = ("prompt", "answer")
        refused = ended(lambda: read.extend(read_rows(str(path), needed=needed)))
        if refused is None and damage == SAFE and end == "\n" and suffix == "jsonl":
            assert [r.fields["prompt"] for r in read] == ["a", row["prompt"], "a"]
        for value in (r.fields[name] for r in read for name in needed):
            assert type(value) in (str, int, float)

    strategy = st.tuples(rows, DAMAGE, ends, st.sampled_from(["jsonl", "jsonl", "csv"]))
    attack(number, strategy, act, [(*b, "\n", s) for b in BAD_LINES for s in ("jsonl", "csv")])


def test_prompts_of_other_types_are_refused_and_a_disk_that_fails_is_named(here: Path) -> None:
    for edits in BAD_LINES[:11]:
        Path("p.jsonl").write_bytes(json_text(edits[0]))
        refused = ended(lambda: read_rows("p.jsonl", needed=("prompt", "answer")))
        assert refused is not None or edits[0]["prompt"] in ("", "\0"), edits
    Path("m.jsonl").symlink_to("/proc/self/mem")
    assert "cannot be read" in str(ended(lambda: read_rows("m.jsonl", needed=("prompt",))))


@cases(300, few=6)
def test_a_parquet_file_is_read_or_refused(number: int, here: Path, fork: Forks) -> None:
    from datetime import date, timedelta
    from decimal import Decimal

    texts = st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=5)
    other = st.sampled_from([[date(2020, 1, 1)], [timedelta(1)], [Decimal("1.1")], [True], [1.5]])
    columns = texts | other | st.lists(st.integers(-9, 9), min_size=1, max_size=3)
    name = st.sampled_from(["prompt", "prompt", "Prompt", "answer"])

    def act(case: tuple[list[Any], str, Any]) -> None:
        column, name, damage = case
        made = io.BytesIO()
        pl.DataFrame({name: column, "answer" if name == "prompt" else "x": column}).write_parquet(
            made
        )
        Path("p.parquet").write_bytes(damaged(made.getvalue(), damage))
        end = fork.ask("rows", here, "p.parquet")
        if end.code == 2 and len(end.lines) > 1:  # polars prints its own panics as well
            assert any("panicked" in line for line in end.lines), end
            return
        end.check()

    attack(number, st.tuples(columns, name, DAMAGE), act, [([True], "prompt", SAFE)])


HEAD = "-- A rule.\n-- param low = 0.5  a number\n-- round top = max(reverse_kl)\n"
IMPORTANCES = [
    "reverse_kl AS importance", "1 AS importance, -1 AS weight", "getvariable('low') AS importance",
    "'x' AS importance", "[1] AS importance", "NULL AS importance", "reverse_kl / 0 AS importance",
    "1 AS importance, 'nan'::DOUBLE AS weight", "true AS importance", "1 AS importances",
    "random() AS importance", "(SELECT r FROM query('SELECT random() AS r')) AS importance",
    "reverse_kl AS importance, 1 AS \"\x1b[31m[bold]\"", "unit(1) AS importance",
    "(((" * 500 + "1" + ")))" * 500 + " AS importance", "getvariable('none') AS importance",
]  # fmt: skip
CHANGED = ["NULL::quadrant AS type", "NULL AS type", "'Q9' AS type", "NULL::DOUBLE AS reverse_kl"]
CHANGED += ["position + 0.5 AS position", "position + 100000 AS position", "NULL AS position"]
CHANGED += ["-position - 1 AS position", "rollout::VARCHAR AS rollout", "'a' AS reverse_kl"]
CHANGED += ["position::VARCHAR AS position"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    folder = tmp_path_factory.mktemp("parts")
    table = TABLES["random"]
    return write_parts(folder / "t", table), write_parts(folder / "r", rollout_table(table))


@cases(300, few=4)
def test_a_rule_and_its_conditions_are_used_or_refused(
    number: int, here: Path, parts: tuple[list[Path], list[Path]]
) -> None:
    def act(case: tuple[str, str | None, str | None, Any]) -> None:
        importance, where, weight, damage = case
        text = f"{HEAD}SELECT *, {importance} FROM tokens".encode("utf-8", "surrogatepass")
        Path("x.sql").write_bytes(damaged(text, damage))
        settings = SelectSettings.model_construct(
            **SelectSettings().model_dump(exclude={"rule", "where", "rollout_weight"}),
            rule="x.sql", where=where, rollout_weight=weight,
        )  # fmt: skip

        def use() -> None:
            check_selection(settings)
            key_of(selection_inputs(settings, [("a", "b")], seed=0, vocabulary=9))
            select(*parts, settings, seed=0, vocabulary=1000, threads=1)

        ended(use)

    words = st.sampled_from(
        ["position", ">", "(", ")", "1", "'", '"', "--", "/*", ";", "\0", "\ud800"]
    )
    words |= st.sampled_from(
        ["SELECT", "FROM tokens", "random()", "NULL", "AND", "\u00a0", "[bold]"]
    )
    conditions = st.none() | st.lists(words, max_size=5).map(" ".join)
    importance = st.sampled_from(IMPORTANCES) | st.lists(words, max_size=5).map(" ".join)
    strategy = st.tuples(importance, conditions, conditions, DAMAGE)
    attack(number, strategy, act, [(i, None, None, SAFE) for i in IMPORTANCES])


@pytest.mark.parametrize("change", CHANGED)
def test_a_rule_that_changes_what_a_token_is_is_refused(
    change: str, here: Path, parts: tuple[list[Path], list[Path]]
) -> None:
    Path("x.sql").write_text(f"SELECT * REPLACE ({change}), 1 AS importance FROM tokens")
    settings = SelectSettings(rule="x.sql")
    refused = ended(lambda: select(*parts, settings, seed=0, vocabulary=1000, threads=1))
    assert refused is not None
    assert refused.startswith("rule x.sql: ")


def test_a_number_of_a_rule_that_no_key_can_hold_is_refused_at_once(here: Path) -> None:
    for number in ("inf", "-inf", "nan", "1e999"):
        Path("x.sql").write_text(
            f"-- A rule.\n-- param a = {number}\nSELECT *, 1 AS importance FROM tokens"
        )
        assert "expected `-- param" in str(
            ended(lambda: check_selection(SelectSettings(rule="x.sql")))
        )


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
STUDENT = {name: json.loads((PAIR / "student" / name).read_text()) for name in MODEL_FILES}
STUDENT["config.json"] |= {"auto_map": {}, "rope_scaling": None, "quantization_config": None}
STUDENT["tokenizer_config.json"] |= {"chat_template": "{{ messages[0].content }}"}
WRONG_FIELDS = {
    ("config.json", "eos_token_id"): ([[1]], {}, -1, 10**30, 1.0, True, "a"),
    ("config.json", "hidden_act"): (math.nan, DEEP),
    ("config.json", "head_dim"): ("a", [1], 1.5),
    ("tokenizer.json", "model"): ({}, 5),
    ("tokenizer_config.json", "eos_token"): ("",),
}
BAD_MODELS = [
    (name, seed_of(STUDENT[name], (field,), value))
    for (name, field), values in WRONG_FIELDS.items()
    for value in values
]
BAD_MODELS += [(name, ([], ("cut", 50, 0))) for name in MODEL_FILES]


@cases(400, few=10)
def test_a_model_folder_is_read_or_refused(number: int, here: Path, fork: Forks) -> None:
    folder = here / "model"

    def act(case: tuple[str, tuple[list[Any], Any]]) -> None:
        name, (edits, damage) = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PAIR / "student", folder)
        (folder / name).write_bytes(damaged(json_text(edited(STUDENT[name], edits)), damage))
        fork.ask("model", folder, "chat" if name == "tokenizer_config.json" else "raw", "").check()

    strategy = st.tuples(st.sampled_from(MODEL_FILES), st.tuples(EDITS, DAMAGE))
    attack(number, strategy, act, BAD_MODELS)


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [
    "{% for i in range(10**12) %}a{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a' * 10**10 }}", "{{ 'a' * 3 * 10**9 }}", "{{ '%0999999999d' % 1 }}", "{{ [0] * 10**9 }}",
    "{{ raise_exception('a\nb') }}", "{% if %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ x.y }}", "{% include '/etc/passwd' %}", "{{ messages[0].content * 10**6 }}", "{{ '' }}",
    "{{ '\ud800' }}", "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id') }}", "{{ 'x' | center(10**9 * 3) }}",
    "{{ messages | tojson(indent=10**9) }}",
]  # fmt: skip


@pytest.mark.parametrize(
    "template",
    [
        *(pytest.param(t, id=str(n)) for n, t in enumerate(TEMPLATES[:5])),
        *(
            pytest.param(t, id=str(n), marks=pytest.mark.soak)
            for n, t in enumerate(TEMPLATES[5:], 5)
        ),
        pytest.param(ENDLESS, id="endless", marks=pytest.mark.soak),
    ],
)
def test_a_template_that_gives_no_prompt_is_refused(template: str, here: Path, fork: Forks) -> None:
    shutil.copytree(PAIR / "student", here / "model")
    values = STUDENT["tokenizer_config.json"] | {"chat_template": template}
    (here / "model" / "tokenizer_config.json").write_text(json.dumps(values))
    end = fork.ask("model", here / "model", "chat", "")
    end.check()
    assert end.code == 2


WEIGHTS = (PAIR / "student" / "model.safetensors").read_bytes()
BODY = 8 + int.from_bytes(WEIGHTS[:8], "little")
HEADER = json.loads(WEIGHTS[8:BODY])
FIRST = next(name for name in HEADER if name != "__metadata__")
INDEX = {"metadata": {}, "weight_map": dict.fromkeys(HEADER, "model-1.safetensors")}
ELSEWHERE = ["../a.safetensors", "/etc/a.safetensors", "model-1.bin"]
BAD_HEADERS = [
    *(("header", *seed_of(HEADER, (FIRST, field), value))
      for field in ("dtype", "shape", "data_offsets")
      for value in (math.nan, DEEP, [0.0, 1.5], [5, 0], None, [])),
    *(("index", *seed_of(INDEX, ("weight_map", FIRST), value))
      for value in (*ELSEWHERE, "x" * 300 + ".safetensors", 5)),
    ("header", [], ("cut", 40, 0)), ("length", [(1 << 19, 0)], SAFE),
]  # fmt: skip


@cases(300, few=6)
def test_weights_are_read_or_refused(number: int, here: Path, fork: Forks) -> None:
    folder = here / "model"

    def act(case: tuple[str, list[Any], Any]) -> None:
        what, edits, damage = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PAIR / "student", folder)
        path = folder / "model.safetensors"
        if what == "index":
            path.rename(folder / "model-1.safetensors")
            text = damaged(json_text(edited(INDEX, edits)), damage)
            (folder / "model.safetensors.index.json").write_bytes(text)
        else:
            text = damaged(json_text(edited(HEADER, edits)), damage)
            length = len(text) if what == "header" else edits[0][0] << 30
            path.write_bytes(struct.pack("<Q", length) + text + WEIGHTS[BODY:])
        fork.ask("model", folder, "raw", "load").check()

    kinds = st.sampled_from(["header", "header", "index", "length"])
    attack(number, st.tuples(kinds, EDITS, DAMAGE), act, BAD_HEADERS)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_leads_nowhere_else(name: str, here: Path, fork: Forks) -> None:
    shutil.copytree(PAIR / "student", here / "model")
    (here / "model" / "model.safetensors").rename(here / "a.safetensors")
    (here / "model" / "model-1.bin").write_bytes(WEIGHTS)
    index = {"weight_map": dict.fromkeys(HEADER, name)}
    (here / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    end = fork.ask("model", here / "model", "raw", "load")
    end.check()
    assert end.code == 2


@pytest.fixture
def store(here: Path) -> Store:
    """Return a store with scored tokens, and a run that points to them."""
    store = Store(here / "store")
    tables: dict[str, tuple[pa.Table, Any]] = {
        "tokens": (TABLES["random"], TOKENS),
        "rollouts": (rollout_table(TABLES["random"]), ROLLOUTS),
    }
    keys = {}
    for kind, (table, columns) in tables.items():

        def make(draft: Any, kind: str = kind, table: Any = table, columns: Any = columns) -> Any:
            draft.table(kind, table, columns)
            return {"tokens": table.num_rows, "words": "[bold]x\x1b[31m"}

        artifact, _ = store.ensure(kind, {"student": "[bold]x\x1b[31m", "seed": 1}, make)
        keys[kind] = artifact.key
    run = here / "runs" / "r"
    (run / "rounds").mkdir(parents=True)
    record = {
        "config": {"store": "store", "rounds": 2, "select": {"rule": "[bold]\x1b", "keep": 0.2}}
    }
    (run / "config.json").write_text(json.dumps(record))
    pointers = {kind: [key] for kind, key in keys.items()}
    (run / "rounds" / "0000.json").write_text(json.dumps(pointers))
    lines = [{"stage": "train", "round": 0, "seconds": 1.5, "loss": 0.5, "trained_tokens": 7}]
    lines += [{"stage": "evaluate", "round": 0, "asked": "a", "accuracy": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return store


def look(name: str = "r") -> list[str | None]:
    """Return how every listing ends."""
    return [
        ended(lambda: print_runs("runs")),
        ended(lambda: print_run(RunFolder("runs", name))),
        ended(lambda: print_query("SELECT * FROM tokens LIMIT 1", name, None, "runs", None)),
    ]


@cases(600)
def test_a_manifest_is_believed_or_named(number: int, here: Path, store: Store) -> None:
    (path, *_) = (here / "store").glob("tokens/*/*/manifest.json")
    whole = path.read_bytes()
    manifest = json.loads(whole)

    def act(case: tuple[list[Any], Any, bool]) -> None:
        edits, damage, consistent = case
        values = edited(manifest, edits)
        home = path.parent
        if consistent and isinstance(values, dict) and isinstance(values.get("inputs"), dict):
            with contextlib.suppress(ValueError, TypeError):  # as a stranger would write it
                values["key"] = artifact_key("tokens", values["inputs"])
                values["format"], values["seal"] = 1, None
                home = path.parents[2] / values["key"][:2] / values["key"]
        home.mkdir(parents=True, exist_ok=True)
        data = damaged(json_text(values), damage)
        (home / "manifest.json").write_bytes(data)
        refused = ended(lambda: store.find("tokens", home.name))
        ends = [ended(lambda: print_artifacts("store", None)), ended(lambda: print_sizes("store"))]
        ends.append(ended(lambda: verify_store("store", "runs")))
        if refused is not None:
            assert "damaged" in refused
            assert None not in ends
        elif values.get("format") == manifest["format"] and home == path.parent:
            assert json.loads(data) == manifest  # nothing else has its seal
        (home / "manifest.json").unlink()
        path.write_bytes(whole)

    seeds = [(*seed_of(manifest, p, v), c) for c in (True, False) for p, v in (
        (("inputs", "student"), [math.nan]), (("facts",), {"fingerprint": [1]}), (("bytes",), 1),
        (("parts", "tokens", "file"), "../../x"), (("inputs",), {}), (("inputs", "seed"), DEEP),
    ) if p != ("bytes",)]  # fmt: skip
    attack(number, st.tuples(EDITS, DAMAGE, st.booleans()), act, seeds)


RUN_FILES = ("config.json", "rounds/0000.json", "metrics.jsonl")


@cases(600)
def test_a_damaged_run_is_named_beside_the_others(number: int, here: Path, store: Store) -> None:
    run = here / "runs" / "r"
    shutil.copytree(run, here / "runs" / "whole")
    texts = {name: (run / name).read_bytes() for name in RUN_FILES}
    values = {
        name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()
    }

    def act(case: tuple[str, list[Any], Any]) -> None:
        name, edits, damage = case
        lines = edited(values[name], edits)
        text = (
            b"".join(json_text(line) + b"\n" for line in lines) if isinstance(lines, list) else b""
        )
        (run / name).write_bytes(damaged(text, damage))
        look()
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(TipError):
            print_runs("runs")
        assert any(line.strip().startswith("whole") for line in shown.getvalue().splitlines())
        (run / name).write_bytes(texts[name])

    seeds = [("metrics.jsonl", *seed_of(values["metrics.jsonl"], p, v)) for p, v in (
        ((1, "stage"), GONE), ((1, "round"), GONE), ((1, "round"), "a"), ((0, "round"), 10**400),
        ((0, "trained_tokens"), 10**400), ((0, "stage"), "other"), ((0,), DEEP), ((0,), 5),
    )]  # fmt: skip
    seeds += [("config.json", *seed_of(values["config.json"], (0, "config", *p), v)) for p, v in (
        (("select",), 5), (("rounds",), "a"), (("select", "keep"), "a"), (("select", "rule"), 5),
        (("store",), GONE), (("store",), 5), (("rounds",), 10**400),
    )]  # fmt: skip
    seeds += [
        ("rounds/0000.json", *seed_of(values["rounds/0000.json"], (0, "tokens", 0), v))
        for v in ("../x", "g" * 32, 5, "\ud800")
    ]
    attack(number, st.tuples(st.sampled_from(RUN_FILES), EDITS, DAMAGE), act, seeds)


def test_a_run_whose_record_is_gone_says_so(here: Path, store: Store) -> None:
    (here / "runs" / "r" / "config.json").unlink()
    assert all(end is not None for end in look()[::2])
    (here / "runs" / "r" / "rounds" / "0a.json").write_text("{}")
    look()


def test_data_is_no_command_to_a_terminal(
    here: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    print_runs("runs")
    print_artifacts("store", None)
    print_query("SELECT '[bold]\x1b[31m' AS \"[red]\x1b\" LIMIT 1", "r", None, "runs", None)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("[bold]") == 4  # the rule, two artifacts, the answer
    assert "[red]" in out


BAD_RUNS = [
    *((seed_of(CONFIG, p, v)) for p, v in (
        (("teacher", "format"), "no column"), (("select", "where"), "false"), (("rounds",), 10**6),
        (("student", "model"), "x" * 5000), (("student", "model"), "~nobody_here/x"),
        (("select", "rule"), "x" * 5000 + ".sql"), (("prompts", "source"), "x" * 5000 + ".jsonl"),
        (("runs",), "/dev/null/x"), (("device",), "cuda:99"), (("rollout", "stop_ids"), [1 << 40]),
    )),
]  # fmt: skip


@cases(300, few=4)
def test_a_plan_is_shown_or_refused(number: int, here: Path, fork: Forks) -> None:
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))

    def act(case: tuple[list[Any], Any]) -> None:
        edits, damage = case
        Path("x.toml").write_bytes(damaged(toml_file(edited(CONFIG, edits)), damage))
        fork.ask("tip", here, "run", "x.toml", "--dry-run").check()
        assert sorted(p.name for p in here.iterdir()) == ["p.jsonl", "x.toml"]  # it only looks

    attack(
        number,
        st.tuples(EDITS, st.just(SAFE) | DAMAGE),
        act,
        BAD_RUNS,
    )
