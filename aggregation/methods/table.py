"""The table of ``aggregation.table`` beside the methods; that module imports without torch, this package does not."""

from aggregation.table import COLUMNS, NEEDS, TABLE, Need, No, Row, Verdict, nearest, refusal

__all__ = ["COLUMNS", "NEEDS", "TABLE", "Need", "No", "Row", "Verdict", "nearest", "refusal"]
