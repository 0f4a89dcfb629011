"""The command `vla compare`: reads records, compares them, says and writes what came out."""

from __future__ import annotations

import json
from pathlib import Path

from vla.errors import UserError
from vla.report.comparison import compare_records
from vla.report.provenance import provenance
from vla.report.records import load
from vla.report.wording import sentences, text, verdict


def compare(*records: str, alpha: float = 0.05, out: str = "") -> str:
    """Compares evaluations of two or more policies on the same episodes: folders with a results.json, or such files.

    Args:
        records: two or more evaluations, episode for episode on the same suite.
        alpha: how often, at most, policies that are equal may be called different; intervals have the level 1 - alpha.
        out: folder for compare.json and compare.html.
    """
    comparison = compare_records([load(path) for path in records], alpha)
    if not out:
        return text(comparison)
    from vla.report.compare_page import write_comparison

    folder, made = Path(out), provenance()
    record = {"verdict": verdict(comparison), "sentences": sentences(comparison), **comparison.to_dict(), **made}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        page = write_comparison(folder / "compare.html", comparison, made)
    except OSError as error:
        raise UserError(f"nothing can be written here: {error.strerror}", out, "give another --out") from error
    return f"{text(comparison)}\n\npage: {page}"
