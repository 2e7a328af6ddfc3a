"""Generated text and its models: exposure bias, repetition, decoding."""

from kexue import _lazy

__getattr__, __dir__ = _lazy.attributes(__name__)
