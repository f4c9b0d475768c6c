"""The demo's own small crawl: about 300 invented pages, and all that a crawl has of spam, duplicates and damage."""

from .crawl import CrawlSummary, Entry, write_crawl

__all__ = ["CrawlSummary", "Entry", "write_crawl"]
