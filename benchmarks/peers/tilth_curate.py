"""WORKERS CRAWL OUTPUT: the main job with the fineweb recipe; prints how many pages were accounted for."""

import json
import sys
from pathlib import Path

from tilth.curate.pipeline import curate
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions

if __name__ == "__main__":
    workers, crawl, output = sys.argv[1:]
    # units of a size that a crawl of four files gives two workers an even share; on real crawls 64 MiB do
    recipe = load_recipe(CurateRecipe, "fineweb", PACKAGE, ["read.unit_bytes=1000000"])
    folder = Folder(Path(output, "run"))
    stats = curate([crawl], folder, "fineweb", recipe, WorkOptions(workers=int(workers)), Progress(folder, True)).stats
    totals = stats["totals"]
    print(json.dumps({"pages": totals["records"], "accounted": totals["documents"] + totals["failures"]}))
