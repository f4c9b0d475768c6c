"""WORKERS CRAWL OUTPUT: nothing but extraction, with tilth's settings, in a bare loop on so many processes."""

import json
import sys
from multiprocessing import Pool
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

from tilth.curate.extract import ExtractOptions, extract_page


def extract(page: bytes) -> bool:
    found = extract_page(page.decode("utf-8", "replace"), None, ExtractOptions())
    return bool(found)


if __name__ == "__main__":
    workers, crawl, output = sys.argv[1:]
    pages = []
    for path in sorted(Path(crawl).glob("*.warc.gz")):
        with open(path, "rb") as file:
            pages += [r.reader.read() for r in ArchiveIterator(file, record_types=WarcRecordType.response)]
    with Pool(int(workers)) as pool:
        done = pool.map(extract, pages, chunksize=8)
    print(json.dumps({"pages": len(pages), "accounted": sum(done)}))
