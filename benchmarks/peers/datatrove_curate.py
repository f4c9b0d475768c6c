"""WORKERS CRAWL OUTPUT: datatrove's steps for the same job: WARC, URL filter, trafilatura, four filters, Parquet."""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    URLFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import ParquetWriter
from loguru import logger

if __name__ == "__main__":
    workers, crawl, output = sys.argv[1:]
    logger.remove()
    executor = LocalPipelineExecutor(
        pipeline=[
            WarcReader(crawl, glob_pattern="*.warc.gz"),
            URLFilter(),
            Trafilatura(favour_precision=True, timeout=10, deduplicate=False),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            ParquetWriter(f"{output}/corpus"),
        ],
        tasks=len(list(Path(crawl).glob("*.warc.gz"))),
        workers=int(workers),
        logging_dir=f"{output}/log",
    )
    executor.run()
    stats = json.loads(Path(output, "log", "stats.json").read_text())
    read = next(step for step in stats if "READER" in step["name"])["stats"]["documents"]
    print(json.dumps({"pages": read["total"] if isinstance(read, dict) else read}))
