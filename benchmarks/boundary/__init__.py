"""What a boundary costs on DeepSpeed's engine, beside the same stages written by hand as tuples."""

__all__: list[str] = []
