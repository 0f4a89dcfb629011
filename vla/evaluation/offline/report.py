"""Writes an offline evaluation into a folder: record, page, films of the worst episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.contract import PolicyContract
from vla.evaluation.offline import measures
from vla.evaluation.offline.films import film
from vla.evaluation.offline.run import OfflineEvaluation
from vla.report.offline_page import write_offline
from vla.report.offline_plots import action_chart


def write(folder: str | Path, result: OfflineEvaluation, contract: PolicyContract, films: int = 2) -> Path:
    """Writes results.json, report.html and `films` films; returns the path of the page."""
    folder, replays = Path(folder), result.replays
    embodiment = contract.embodiment(result.record.data["embodiment"])
    space = embodiment.action
    columns = measures.varying(space)
    names, units = [space.names[i] for i in columns], [space.units[i] for i in columns]
    result.record.save(folder)
    error = [float(measures.scaled_error(space, one.action, one.demonstration.action).mean()) for one in replays]
    # A part of an episode may have a single step, which shows nothing.
    long = [number for number in np.argsort(error)[::-1].tolist() if len(replays[number].action) >= measures.FIRST]
    order = long or [int(np.argmax(error))]
    charts, filmed = {}, []
    for number, what in {order[len(order) // 2]: "median error", order[0]: "largest error"}.items():
        one = replays[number]
        title = f"{one.demonstration}: {what}, {error[number]:.3f} half ranges"
        charts[title] = action_chart(one.demonstration.action[:, columns], one.action[:, columns], names, units)
    for number in order[:films]:
        demonstration = replays[number].demonstration
        path = f"videos/{str(demonstration).replace(' ', '-')}.mp4"
        film(replays[number], folder / path, columns, names, units, embodiment.control_hz)
        note = f"{demonstration}, {error[number]:.3f} half ranges"
        filmed.append({"path": path, "title": demonstration.instruction[0] or "(no instruction)", "note": note})
    return write_offline(folder, result.record, charts, filmed)
