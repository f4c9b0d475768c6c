"""What all labels cost beside trafilatura, on the pages of a crawl, in one process: CPU seconds and their ratio.

python benchmarks/labels.py CRAWL [--repeat 3]

CRAWL is a folder of *.warc.gz. Extraction is trafilatura.extract with the settings of the recipes (precision, no
comments) and nothing else, on the pages' bytes; the labels are all of tilth's, segmentation and language among them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tilth.curate.label import Labeller, LabelOptions


def pages(crawl: Path) -> list[tuple[str, bytes]]:
    """URL and payload of every response."""
    found = []
    for path in sorted(crawl.glob("*.warc.gz")):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                found.append((record.headers["WARC-Target-URI"], record.reader.read()))
    return found


def extract(body: bytes) -> str:
    return trafilatura.extract(body, favor_precision=True, include_comments=False, deduplicate=False) or ""


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crawl", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    crawl = pages(arguments.crawl)
    texts = [(url, extract(body)) for url, body in crawl]
    labeller = Labeller(LabelOptions())

    def label_all() -> None:
        for url, text in texts:
            labeller.url(url)
            if text:
                labeller.late(*labeller.early(text))

    label_all()  # tables and dictionaries are loaded at the first use
    extracting, labelling = [], []
    for _ in range(arguments.repeat):
        extracting.append(cpu_seconds(lambda: [extract(body) for _, body in crawl]))
        labelling.append(cpu_seconds(label_all))
    shares = [label / extraction for label, extraction in zip(labelling, extracting, strict=True)]
    result = {
        "bench": "labels",
        "trafilatura": trafilatura.__version__,
        "pages": len(crawl),
        "extraction_cpu_s": round(statistics.median(extracting), 2),
        "labels_cpu_s": round(statistics.median(labelling), 2),
        "labels / extraction": round(statistics.median(shares), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
