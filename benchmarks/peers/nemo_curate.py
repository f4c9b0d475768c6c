"""WORKERS CRAWL OUTPUT: NeMo Curator's text pipeline on Ray Data: WARC, trafilatura, heuristic filters, Parquet."""

import json
import sys
from pathlib import Path

import ray
from loguru import logger
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.file_partitioning import FilePartitioningStage
from nemo_curator.stages.text.download.base.iterator import DocumentIterateExtractStage
from nemo_curator.stages.text.download.common_crawl.extract import CommonCrawlHTMLExtractor
from nemo_curator.stages.text.download.common_crawl.warc_iterator import CommonCrawlWarcIterator
from nemo_curator.stages.text.filters import ScoreFilter
from nemo_curator.stages.text.filters.heuristic import string
from nemo_curator.stages.text.filters.heuristic.repetition import repetition
from nemo_curator.stages.text.io.writer.parquet import ParquetWriter
from warcio.archiveiterator import ArchiveIterator

DUPLICATES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
TOPS = {2: 0.20, 3: 0.18, 4: 0.16}


def count(path: str) -> int:
    """Responses in a WARC file."""
    with open(path, "rb") as file:
        return sum(record.rec_type == "response" for record in ArchiveIterator(file))


if __name__ == "__main__":
    workers, crawl, output = sys.argv[1:]
    logger.remove()
    files = sorted(str(path) for path in Path(crawl).glob("*.warc.gz"))
    ray.init(num_cpus=int(workers), log_to_driver=False, logging_level="error", include_dashboard=False)
    filters = [
        string.NonAlphaNumericFilter(),
        string.SymbolsToWordsFilter(),
        string.NumbersFilter(),
        string.UrlsFilter(),
        string.BulletsFilter(),
        string.WhiteSpaceFilter(),
        string.ParenthesesFilter(),
        string.LongWordFilter(),
        string.WordCountFilter(),
        string.BoilerPlateStringFilter(),
        string.MeanWordLengthFilter(),
        string.PunctuationFilter(),
        string.EllipsisFilter(),
        string.CommonEnglishWordsFilter(),
        string.WordsWithoutAlphabetsFilter(),
        repetition.RepeatedLinesFilter(),
        repetition.RepeatedParagraphsFilter(),
        repetition.RepeatedLinesByCharFilter(),
        repetition.RepeatedParagraphsByCharFilter(),
        *(repetition.RepeatingTopNGramsFilter(n=n, max_repeating_ngram_ratio=most) for n, most in TOPS.items()),
        *(
            repetition.RepeatingDuplicateNGramsFilter(n=n, max_repeating_duplicate_ngram_ratio=most)
            for n, most in DUPLICATES.items()
        ),
    ]
    pipeline = Pipeline(name="curate")
    pipeline.add_stage(FilePartitioningStage(file_paths=files, files_per_partition=1, file_extensions=[".gz"]))
    extractor = CommonCrawlHTMLExtractor("trafilatura")
    pipeline.add_stage(DocumentIterateExtractStage(iterator=CommonCrawlWarcIterator(), extractor=extractor))
    pipeline.add_stage(ScoreFilter(filter_obj=filters, text_field="text"))
    pipeline.add_stage(ParquetWriter(path=f"{output}/corpus"))
    pipeline.run(RayDataExecutor())
    print(json.dumps({"pages": sum(count(file) for file in files)}))
