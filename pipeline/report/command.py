"""`tip report`: what is asked for is found, read, and written as a page, a folder, or served."""

import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ...stages.select.rulebook import builtin_rules, load_rule
from ...storage.errors import ConfigError
from ...storage.files import new_folder, unwritable, user_path
from ..progress import Reporter, Stopwatch
from ..show.cells import size
from .comparison import comparison_of, is_comparison
from .gather import Gathered, Wanted, gathered
from .pack import as_json
from .page import Content, render, sheet_file, write
from .source import Source, open_source

ROLLOUTS = 64
"""Rollouts of a page where nobody says how many."""
BUNDLED = 1000
"""Rollouts of a bundle."""
# At 220 bytes a token of a real pair, with the plane and the curves, such a page stays below 5 MB.
_PAGE_TOKENS = 18_000
_SMALL_STUDENT = 64 << 20  # bytes of weights: a pass over a page's tokens takes seconds


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    names: runs, or folders of comparisons. rollouts: None where nobody says. rules: names with
    commas, `all`; empty for the usual ones. student: whether students read again; None: small ones.
    """

    names: Sequence[str]
    runs: str
    rollouts: int | None = None
    rules: str = ""
    student: bool | None = None


def report(request: Request, output: Path | None, bundle: Path | None, *, open_it: bool) -> None:
    """Write a report and say where it is. Raises `TipError` for what cannot be read or written."""
    watch, reporter = Stopwatch(), Reporter()
    if output is not None and bundle is not None:
        raise ConfigError(
            f"--output {output} is one file and --bundle {bundle} a folder: name one of them"
        )
    if bundle is not None:
        page = _write_bundle(request, user_path(bundle), reporter)
    else:
        page = _write_page(request, user_path(output or f"{_stem(request)}.html"), reporter)
    reporter.say(f"{watch.seconds:.0f} s; written to {page} ({size(page.stat().st_size)})")
    if open_it:
        webbrowser.open(page.absolute().as_uri())


def _write_page(request: Request, path: Path, reporter: Reporter) -> Path:
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder: name a file, or use --bundle {path}")
    if (why := unwritable(path.parent)) is not None:
        raise ConfigError(f"--output {path}: {why}; name another file")
    text = page_of(request, reporter)
    try:
        write(path, text)
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror})") from error
    return path


def page_of(request: Request, reporter: Reporter, live: str | None = None) -> str:
    """Return a report as one page. live: see `Content`."""
    content, taken = _content(request, reporter, ROLLOUTS, _PAGE_TOKENS)
    sheets = list(_sheets(taken))  # read before the facts are written: they complete them
    return render(replace(content, sheets=sheets, live=live))


def _write_bundle(request: Request, folder: Path, reporter: Reporter) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--bundle {folder} is there already: name a new folder, or delete it")
    if (why := unwritable(folder.parent)) is not None:
        raise ConfigError(f"--bundle {folder}: {why}; name another folder")
    content, taken = _content(request, reporter, BUNDLED, None)
    try:
        with new_folder(folder) as beside:
            (beside / "sheets").mkdir()
            for name, text in _sheets(taken):
                file = beside / "sheets" / f"{name}.js"
                file.write_text(sheet_file(name, text), encoding="utf-8")
            page = render(replace(content, bundle=True))
            (beside / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--bundle {folder}: cannot be written ({error.strerror})") from error
    return folder / "index.html"


def _sheets(taken: Sequence[Gathered]) -> Iterator[tuple[str, str]]:
    """Yield the name and the JSON of every rollout that is shown."""
    for place, run in enumerate(taken):
        for number, sheet in enumerate(run.sheets()):
            yield f"{place}-{number}", as_json(sheet.tokens)


def _content(
    request: Request, reporter: Reporter, usual: int, tokens: int | None
) -> tuple[Content, list[Gathered]]:
    """Return a page without its rollouts, and the runs that give them.

    usual: rollouts where nobody says how many. tokens: of all of them at most.
    """
    rules = _rules(request.rules)
    found = [find(name, request.runs, reporter) for name in request.names]
    sources = [each for each in found if isinstance(each, Source)]
    shares = max(1, len(sources))
    taken = [
        gathered(
            source,
            Wanted(
                rollouts=max(1, (request.rollouts or usual) // shares),
                tokens=None if tokens is None else tokens // shares,
                rules=rules,
                student=_asks_student(source) if request.student is None else request.student,
            ),
        )
        for source in sources
    ]
    comparisons = [each for each in found if isinstance(each, dict)]
    names = [source.config.name for source in sources] + [each["name"] for each in comparisons]
    content = Content(
        title=", ".join(names),
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        runs=[run.facts for run in taken],
        comparisons=comparisons,
    )
    return content, taken


def find(name: str, runs: str, reporter: Reporter) -> Source | dict[str, Any]:
    """Return a run, or what a comparison wrote: by its folder, or its name among the runs."""
    folders = [user_path(name), user_path(runs) / name]
    if (folder := next(filter(is_comparison, folders), None)) is not None:
        return comparison_of(folder)
    folder = folders[0]
    if (folder / "config.json").is_file():  # a run by its path
        return open_source(folder.resolve().name, str(folder.resolve().parent), reporter)
    return open_source(name, runs, reporter)


def _rules(words: str) -> list[str] | None:
    """Return the rules that are to be asked. Raises `InputError` for one that is none."""
    if not words:
        return None
    names = list(builtin_rules()) if words == "all" else list(dict.fromkeys(words.split(",")))
    for name in names:
        load_rule(name)
    return names


def _asks_student(source: Source) -> bool:
    """Tell whether the run's students are so small that reading again takes no time."""
    if source.tokenizer is None:
        return False
    folder = source.session.inputs.student_card.weights_folder
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= _SMALL_STUDENT


def _stem(request: Request) -> str:
    first = user_path(request.names[0]).resolve().name if request.names else "report"
    more = f"-and-{len(request.names) - 1}-more" if len(request.names) > 1 else ""
    return f"report-{first}{more}"
