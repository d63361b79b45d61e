"""Runs the tests with other versions of Python, torch, DeepSpeed and transformers."""
