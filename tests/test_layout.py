"""The house rules that code can hold: who may import whom, and what must not exist."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tilth.parcel import build_wheel

ROOT = Path(__file__).parent.parent
PARTS = ["tilth", "curate", "tokenize", "train", "align", "cli"]  # each may import those before it
SOURCES = [file for part in PARTS for file in sorted((ROOT / part).rglob("*.py"))]


def imported_parts(source: str, place: Path) -> set[str]:
    """The parts that the source of the file at `place` (relative to the root) imports, its own apart."""
    package = [*place.parent.parts] if place.parts[0] == "tilth" else ["tilth", *place.parent.parts]
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *node.module.split(".")] if node.module else base
            names += [".".join([*base, alias.name]) for alias in node.names]
    steps = [name.split(".") for name in names]
    found = {step[1] if step[1] in PARTS else "tilth" for step in steps if step[0] == "tilth" and len(step) > 1}
    return found - {place.parts[0]}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_part_imports_only_parts_below_it(file):
    place = file.relative_to(ROOT)
    above = [
        part for part in imported_parts(file.read_text(), place) if PARTS.index(part) > PARTS.index(place.parts[0])
    ]
    assert not above, f"{place} imports {above}"


def test_every_way_to_import_a_part_is_seen():
    source = (
        "from ..cli.main import app\nimport tilth.align.chat\nfrom tilth.errors import TilthError\nfrom .. import train"
    )
    assert imported_parts(source, Path("curate/x.py")) == {"cli", "align", "tilth", "train"}
    assert imported_parts("from ..segment import segment", Path("curate/label/x.py")) == set()
    assert imported_parts("from ...cli import main", Path("curate/label/x.py")) == {"cli"}


def test_namespaces_stay_namespaces():
    """A regular package here would shadow the standard library's tokenize, or hide the parts."""
    assert not (ROOT / "tilth" / "__init__.py").exists()
    assert not (ROOT / "tokenize" / "__init__.py").exists()


def test_the_standard_tokenize_wins_with_the_root_on_the_path():
    code = "import sys; sys.path.insert(0, '.'); import tokenize, linecache, inspect; print(tokenize.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT) not in result.stdout


def test_every_package_is_in_the_wheel_configuration():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for part in PARTS[1:]:
        for init in (ROOT / part).rglob("__init__.py"):
            name = ".".join(["tilth", *init.parent.relative_to(ROOT).parts])
            assert name in settings["packages"], f"{name} would be missing from the wheel"


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_runs(tmp_path):
    """The wheel alone, beside the installed dependencies: commands answer, and recipes travel in it."""
    wheel = build_wheel(ROOT, tmp_path)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if '__editable__' not in p]; sys.meta_path[:] = "
        f"[f for f in sys.meta_path if 'editable' not in repr(f).lower()]; sys.path.insert(0, {str(site)!r}); "
        "import tilth.cli.main as main; print(main.__file__); sys.argv = ['tilth', 'curate', 'recipes']; main.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(site) in result.stdout.splitlines()[0]
    assert "fineweb" in result.stdout
