"""A curation run that kills itself: `python stopped.py INPUT OUTPUT PASS [SETTING ...]`.

It dies, as by kill -9, after the files of the first unit of a pass have their names and before its record is written:
the worst moment. With PASS "forget:NAME" it dies when the records of that pass are deleted and its files are not yet;
with "none" it runs to the end. Partitions are small, so that every pass has several units.
"""

import os
import signal
import sys
from functools import partial

from tilth.curate.dedup import census, exact, near, passes, repeats
from tilth.curate.pipeline import curate
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.ledger import Ledger
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions


def main() -> None:
    given, output, last, *settings = sys.argv[1:]
    census.GROUP_DOCUMENTS, exact.PARTITION, near.PARTITION = 20, 40, 100
    near.COMPONENT_BYTES, repeats.PARTITION = 20_000, 50
    passes.connect = partial(passes.connect, memory_edges=10, partition_edges=50)
    record = Ledger.record

    def stopped(ledger: Ledger, key: str, values: dict) -> None:
        if ledger.name.endswith(last):
            os.kill(os.getpid(), signal.SIGKILL)
        record(ledger, key, values)

    def forgotten(ledger: Ledger) -> None:
        if f"forget:{ledger.name}" == last and ledger.records():
            ledger.folder.delete(f"ledger/{ledger.name}")
            os.kill(os.getpid(), signal.SIGKILL)
        forget(ledger)

    forget = Ledger.forget
    Ledger.record, Ledger.forget = stopped, forgotten
    recipe = load_recipe(CurateRecipe, "dedup", PACKAGE, settings)
    outcome = curate([given], Folder(output), "dedup", recipe, WorkOptions(in_process=True), Progress(quiet=True))
    sys.exit(str(outcome.failed) if outcome.failed else 0)


if __name__ == "__main__":
    main()
