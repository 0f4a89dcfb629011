"""Rates that RT-2's authors published, for orientation beside a study of ours.

Brohan et al. 2023, arXiv 2307.15818. The numbers are those of the paper's tables as two independent summaries of it give them.
"""

from __future__ import annotations

from vla.report.wording import Table

SOURCE = (
    "RT-2's own numbers (Brohan et al. 2023, arXiv 2307.15818), from the paper's tables as summaries of it give them. They are "
    "success rates in % of a real robot in a kitchen, with other tasks, other data and models of 5 to 55 billion parameters. "
    "Nothing of this was measured here, and the study's numbers are not expected to equal them. What can be compared is the "
    "order of the recipes."
)


def rt2_tables() -> list[Table]:
    """Returns RT-2's evaluation, and its ablation of size and recipe."""
    return [
        Table(
            "RT-2's evaluation (theirs)",
            "Unseen sets: easy / hard.",
            ["policy", "seen", "unseen objects", "backgrounds", "environments", "unseen, mean"],
            [
                ["R3M", "45", "32 / 14", "13 / 9", "0 / 2", "12"],
                ["VC-1", "63", "34 / 10", "13 / 3", "0 / 0", "10"],
                ["RT-1", "92", "31 / 43", "71 / 9", "26 / 14", "32"],
                ["MOO", "75", "58 / 48", "38 / 41", "19 / 3", "35"],
                ["RT-2-PaLI-X-55B", "91", "70 / 62", "96 / 48", "63 / 35", "62"],
                ["RT-2-PaLM-E-12B", "93", "84 / 76", "75 / 71", "36 / 33", "62"],
            ],
        ),
        Table(
            "RT-2's ablation (theirs)",
            "Mean of the unseen sets. The largest model was not trained from scratch.",
            ["recipe", "5B", "55B"],
            [
                ["from scratch", "9", "–"],
                ["robot data only, from a pre-trained model", "42", "52"],
                ["co-fine-tuned with web data", "44", "63"],
            ],
        ),
    ]
