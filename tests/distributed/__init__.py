"""Pipelines of several processes beside the same training in one process.

A family of cases is a subclass of ``training.Training``: stages, batches, an optimizer, as data.
``training`` trains it on the engine in every rank, ``reference`` in one process by torch alone, and
``comparison`` compares losses, evaluations, weights and missing gradients to the last bit.
"""
