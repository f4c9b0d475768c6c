"""Deduplication: which documents say what another one says already."""
