"""The demo's crawl, written and curated once for all tests that look at a finished run."""

import shutil
from pathlib import Path

import pytest

from tilth.curate.demo import write_crawl
from tilth.curate.pipeline import curate
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions


@pytest.fixture(scope="session")
def crawl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "crawl"
    write_crawl(folder)
    return folder


@pytest.fixture(scope="session")
def demo_recipe() -> CurateRecipe:
    return load_recipe(CurateRecipe, "demo", PACKAGE)


@pytest.fixture(scope="session")
def finished(crawl, demo_recipe) -> Path:
    """A run that nobody changes; take a copy to work on."""
    folder = Folder(crawl.parent / "run")
    outcome = curate([str(crawl)], folder, "demo", demo_recipe, WorkOptions(in_process=True), Progress(quiet=True))
    assert not outcome.failed
    return Path(folder.url)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
