"""The command `vla compare`: reads records, compares them, says and writes what came out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report import learning_comparison as learning
from vla.report.comparison import compare_records
from vla.report.learning import KIND, kind_of, load_run
from vla.report.provenance import provenance
from vla.report.records import load
from vla.report.wording import sentences, text, verdict


def compare(*records: str, alpha: float = 0.05, out: str = "") -> str:
    """Compares evaluations of two or more policies on the same episodes, or training runs of `vla rl fit`.

    Args:
        records: two or more results.json, or their folders: evaluations on the same episodes of a suite; or runs of several
            conditions and seeds, of which each condition is compared with the first.
        alpha: significance level; intervals have the level 1 - alpha.
        out: folder for compare.json and compare.html.
    """
    if any(kind_of(path) == KIND for path in records):
        return _compare_learning(records, alpha, out)
    comparison = compare_records([load(path) for path in records], alpha)
    if not out:
        return text(comparison)
    from vla.report.compare_page import write_comparison

    made = provenance()
    record = {"verdict": verdict(comparison), "sentences": sentences(comparison), **comparison.to_dict(), **made}
    page = _write(Path(out), record, lambda path: write_comparison(path, comparison, made))
    return f"{text(comparison)}\n\npage: {page}"


def _compare_learning(records: tuple[str, ...], alpha: float, out: str) -> str:
    comparison = learning.compare_runs([load_run(path) for path in records], alpha)
    if not out:
        return learning.text(comparison)
    from vla.report.learning_page import write_learning

    made = provenance()
    said = {"verdict": learning.verdict(comparison), "sentences": learning.sentences(comparison)}
    page = _write(Path(out), {**said, **comparison.to_dict(), **made}, lambda path: write_learning(path, comparison, made))
    return f"{learning.text(comparison)}\n\npage: {page}"


def _write(folder: Path, record: dict[str, Any], page: Callable[[Path], Path]) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return page(folder / "compare.html")
    except OSError as error:
        raise UserError(f"nothing can be written here: {error.strerror}", str(folder), "give another --out") from error
