"""Resurgam backs up and recovers AI systems as systems, and proves that what came back behaves the same."""

__version__ = "0.1.0"
