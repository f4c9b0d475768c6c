"""Curation: a crawl becomes labelled documents, and those a corpus."""
