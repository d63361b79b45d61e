"""A small model trained in a pipeline and in one process: ``python -m pipecodec.demo --help``."""

__all__: list[str] = []
