"""Models on Megatron-core: what a recipe may ask for, and how it is built."""
