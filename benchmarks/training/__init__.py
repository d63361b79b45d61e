"""Training in a pipeline: pipecodec beside stages by hand, and beside the origin's algorithm."""

__all__: list[str] = []
