"""A wheel holds what the checkout holds: every package, and the files that they read."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "stages", "storage")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
RULES = "tip.stages.select.rules"  # a folder of SQL without a module


def folders() -> set[str]:
    """Return the dotted name of each folder of the checkout that is a package."""
    found = [path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    return {".".join(("tip", *path.relative_to(ROOT).parts)) for path in found}


def test_the_packages_of_a_wheel_are_the_folders_of_the_checkout() -> None:
    packages = SETTINGS["setuptools"]["packages"]
    assert sorted(packages) == sorted({"tip", RULES} | folders())


def test_every_folder_with_a_module_is_a_package() -> None:
    modules = [path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    bare = {path for path in modules if not (path / "__init__.py").is_file()}
    assert bare == set()


@pytest.mark.parametrize(
    "suffix", [".sql", ".toml", ".json", ".safetensors", ".md", ".typed", ".html", ".css", ".js"]
)
def test_every_file_that_is_no_module_is_package_data(suffix: str) -> None:
    data = SETTINGS["setuptools"]["package-data"]
    there = {path for room in ROOMS for path in (ROOT / room).rglob(f"*{suffix}")}
    carried = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / Path(*package.split(".")[1:])).glob(pattern)
    }
    assert there <= carried
