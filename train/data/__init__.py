"""What training reads: samples of a fixed length, by number."""
