"""Models that torch's own splitter cuts, trained with the origin's plumbing and in pipecodec."""

__all__: list[str] = []
