"""Recipes of the tokenizer toolkit that travel with tilth."""
