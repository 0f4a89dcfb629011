"""`vla compare`."""

from __future__ import annotations

import functools

from vla.report import compare as report


@functools.wraps(report.compare)
def compare(*records: str, alpha: float = 0.05, out: str = "") -> str:
    from vla.evaluation.ways import check_evaluation

    for path in records:
        check_evaluation(path)
    return report.compare(*records, alpha=alpha, out=out)
