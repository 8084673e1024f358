"""Prompts inside of other people's frameworks; each file needs its own extra."""
