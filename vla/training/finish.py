"""The end of `vla fit`: writes the export, evaluates it on held-out demonstrations and questions, and says what to do next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.checkpoint import assemble
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.sources import Source
from vla.datasets.stream import QuestionStream
from vla.errors import UserError
from vla.evaluation.offline.questions import question_accuracy
from vla.evaluation.offline.replay import BATCH
from vla.evaluation.offline.run import evaluate_with_progress
from vla.policies.local import LocalPolicy
from vla.report.offline import answered, held_out, text
from vla.report.provenance import provenance
from vla.training.export import write_card, write_export
from vla.training.model_card import Card, mixture_of


def finish(
    folder: str,
    checkpoint: dict[str, Any],
    data: dict[str, Any],
    sources: Mapping[str, Source[Any]],
    episodes: int,
    vlm: Any = "",
    progress: bool = True,
) -> None:
    """Exports a run and evaluates the export.

    Args:
        folder: folder of the export.
        checkpoint: the run's state, as a checkpoint holds it.
        data: the configuration's `data` section, for the model card.
        sources: the data sources; robot data and questions are evaluated on.
        episodes: number of held-out demonstrations of each; 0 leaves the evaluation out.
        vlm: the configuration's `model.vlm`, for the model card.
        progress: whether the evaluation shows a progress bar.
    """
    model, processor, contract = assemble(checkpoint, "the run")
    card = Card(**mixture_of(data, vlm), made=provenance())
    write_export(folder, model, processor, contract, card)
    robots = {name: source for name, source in sources.items() if isinstance(source, RobotSource)}
    # A stream has no end, so its held-out part may be large.
    asked = {n: s for n, s in sources.items() if isinstance(s, QuestionSource) and not isinstance(s, QuestionStream)}
    sentences = []
    evaluated: dict[str, RobotSource | QuestionSource] = {**robots, **asked} if episodes else {}
    policy = LocalPolicy.from_export(folder, BATCH, probabilities=True) if evaluated else None
    for name, source in evaluated.items():
        assert policy is not None
        try:
            if isinstance(source, QuestionSource):
                result = answered(question_accuracy(policy, source))
                print(f"\n{name}, held-out images\n{result}", flush=True)
            else:
                summary = evaluate_with_progress(policy, folder, source, episodes, shown=progress).record.summary
                result = held_out(summary)
                print(f"\n{name}, {summary['episodes']} held-out episodes\n{text(summary)}", flush=True)
        except UserError as error:
            print(f"note: {name} was not evaluated: {error}", flush=True)
            continue
        sentences.append(f"{name}: {result}")
    if sentences:
        write_card(folder, model, contract, dataclasses.replace(card, held_out="; ".join(sentences)))
    print(f"\nexport: {folder}")
    questions = f" --questions {next(iter(asked.values())).folder}" if asked else ""
    for source in list(robots.values())[:1]:
        print(f"next: vla evaluate {folder} {source.folder}{questions} --out {Path(folder).parent / 'evaluation'}")
    print(f"      vla serve {folder}", flush=True)
