"""Generated text and its models: exposure bias, repetition, decoding."""
