"""The command `vla compare`: reads records, compares them, returns and writes the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report import learning_comparison as learning
from vla.report import offline_comparison as offline
from vla.report.comparison import compare_records
from vla.report.learning import KIND, kind_of, load_run
from vla.report.offline import KIND as OFFLINE
from vla.report.offline import load_offline
from vla.report.provenance import provenance
from vla.report.records import load
from vla.report.wording import sentences, text, verdict


def compare(*records: str, alpha: float = 0.05, out: str = "") -> str:
    """Compares evaluations of two or more policies on the same episodes, or training runs of `vla rl fit`.

    Evaluations of `vla evaluate` are compared by their errors, those of `vla rollout` by their successes.

    Args:
        records: folders with a results.json, or such files: two or more evaluations on the same suite, paired by episode; or
            runs of two or more conditions over several seeds, of which the first condition is compared with each other one.
        alpha: significance level, the chance that equal policies are called different; intervals have the level 1 - alpha.
        out: folder for compare.json and compare.html.
    """
    kinds = {kind_of(path) for path in records}
    if KIND in kinds:
        return _compare_learning(records, alpha, out)
    if OFFLINE in kinds:
        return _compare_offline(records, alpha, out)
    comparison = compare_records([load(path) for path in records], alpha)
    if not out:
        return text(comparison)
    from vla.report.compare_page import write_comparison

    origin = provenance()
    record = {"verdict": verdict(comparison), "sentences": sentences(comparison), **comparison.to_dict(), **origin}
    page = _write(Path(out), record, lambda path: write_comparison(path, comparison, origin))
    return f"{text(comparison)}\n\npage: {page}"


def _compare_learning(records: tuple[str, ...], alpha: float, out: str) -> str:
    comparison = learning.compare_runs([load_run(path) for path in records], alpha)
    if not out:
        return learning.text(comparison)
    from vla.report.learning_page import write_learning

    origin = provenance()
    texts = {"verdict": learning.verdict(comparison), "sentences": learning.sentences(comparison)}
    page = _write(Path(out), {**texts, **comparison.to_dict(), **origin}, lambda path: write_learning(path, comparison, origin))
    return f"{learning.text(comparison)}\n\npage: {page}"


def _compare_offline(records: tuple[str, ...], alpha: float, out: str) -> str:
    comparison = offline.compare_offline([load_offline(path) for path in records], alpha)
    if not out:
        return offline.text(comparison)
    from vla.report.html import facts, write_page

    origin = provenance()
    texts = {"headline": offline.verdict(comparison), "sentences": offline.sentences(comparison)}
    shown = {
        **texts,
        "charts": {},
        "tables": offline.tables(comparison),
        "facts": {**comparison.settings.facts(), **facts(origin)},
    }
    title = f"Decoded errors on {comparison.data}: {comparison.episodes} paired episodes"
    record = {"verdict": texts["headline"], "sentences": texts["sentences"], **comparison.to_dict(), **origin}
    page = _write(Path(out), record, lambda path: write_page(path, "learning.html", title=title, **shown))
    return f"{offline.text(comparison)}\n\npage: {page}"


def _write(folder: Path, record: dict[str, Any], page: Callable[[Path], Path]) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return page(folder / "compare.html")
    except OSError as error:
        raise UserError(f"cannot write here: {error.strerror}", str(folder), "give another --out") from error
