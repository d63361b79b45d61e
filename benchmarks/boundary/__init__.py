"""The cost of a boundary on DeepSpeed's engine, beside the same stages by hand as tuples."""

__all__: list[str] = []
