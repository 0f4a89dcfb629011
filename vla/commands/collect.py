"""`vla collect`."""

from __future__ import annotations

from tqdm import tqdm

from vla.errors import UserError
from vla.sim.collect import check, collect_with_progress
from vla.sim.collect_options import Collect


def collect(options: Collect) -> str:
    """Records demonstrations of a scripted expert, an expert's labels in the states to which a policy leads, or images with
    questions, as webdataset shards with a card."""
    counts = collected(options)
    return f"{options.out}: " + ", ".join(f"{value} {name}" for name, value in counts.items())


def collected(options: Collect) -> dict[str, int]:
    """Collects, with a progress bar; returns counts."""
    if not options.policy:
        return collect_with_progress(options)
    from vla.evaluation.facts import facts_of
    from vla.evaluation.run import BATCH, open_policy
    from vla.sim.dagger import advised_workers, collect_advised
    from vla.sim.engines import worker_count

    check(options)
    if options.policy == "expert":
        raise UserError("the expert already says what it would do", "--policy", "leave it out for demonstrations of the expert")
    if options.expert == "expert":
        raise UserError("there is no policy of that name", "--expert", "leave it out for the scripted expert")
    names = (options.policy, options.expert) if options.expert else (options.policy,)
    policy, *teachers = (open_policy(name, options.batch or BATCH, (options.task,)) for name in names)
    assert policy is not None
    identity = facts_of(options.policy, policy, 0)
    if teachers:
        identity |= {"expert": facts_of(options.expert, teachers[0], 1)}
    workers = worker_count("local", options.workers, options.episodes)
    with (
        advised_workers(options, workers) as pool,
        tqdm(total=options.episodes, desc=f"collect {options.task}", unit="episode") as bar,
    ):

        def report(done: int, _: int, word: str) -> None:
            bar.update(done - bar.n)
            bar.set_postfix_str(word)

        return collect_advised(options, policy, identity, pool, report, *teachers)
