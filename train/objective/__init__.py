"""What a model is trained for: each says what a sample becomes and what its loss is."""
