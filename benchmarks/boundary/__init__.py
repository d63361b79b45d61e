"""What a boundary costs, beside the same two stages written by hand as tuples."""

__all__: list[str] = []
