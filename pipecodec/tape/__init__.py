"""Observes a model and records what its glue code does."""
