"""Rows of T03: every cell at g = 1 and at its g*, with the paired difference of the two (SCIENCE section 7; spec 17).

accuracy is the share of questions whose right label is most probable; opt_acc_norm and opt_acc_cloze score the full answer per
byte, after the listed choices and after the question alone. Both gains of a cell answer the same questions, so a difference is
paired, and every interval comes from one weight matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from avalanche_llm.analysis.conditions import Condition
from avalanche_llm.analysis.summarize import Row, RowHead, with_interval
from avalanche_llm.metrics.accuracy import accuracy, chance_level, mcnemar


@dataclass(frozen=True)
class Answers:
    """What the questions were answered at one gain, in their order; margin in nats."""

    correct: Bool[np.ndarray, " question"]
    correct_norm: Bool[np.ndarray, " question"]
    correct_cloze: Bool[np.ndarray, " question"]
    margin: Float64[np.ndarray, " question"]
    n_choices: Int64[np.ndarray, " question"]
    place: Int64[np.ndarray, " question"]
    n_tied: int

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Answers":
        """From the rows of one gain of arc_questions.parquet."""
        measures = ("correct", "correct_norm", "correct_cloze", "margin", "n_choices")
        place = [list(labels).index(label) for labels, label in zip(rows["labels"], rows["predicted"], strict=True)]
        tied = rows["tied"] | rows["tied_norm"] | rows["tied_cloze"]
        columns = {name: rows[name].to_numpy() for name in measures}
        return cls(**columns, place=np.array(place), n_tied=int(tied.sum()))


def arc_rows(
    head: RowHead,
    conditions: Sequence[Condition],
    answers: Mapping[float, Answers],
    weights: Int64[np.ndarray, "reps question"],
) -> list[Row]:
    """A row a condition; in gstar rows also gstar minus g1 of the same cell."""
    baseline = {condition.cell: condition.g for condition in conditions if condition.g_condition == "g1"}
    return [_row(head, condition, answers, baseline[condition.cell], weights) for condition in conditions]


def _row(
    head: RowHead,
    condition: Condition,
    answers: Mapping[float, Answers],
    baseline: float,
    weights: Int64[np.ndarray, "reps question"],
) -> Row:
    found, notes = answers[condition.g], []
    by_label, by_cloze = accuracy(found.correct, weights), accuracy(found.correct_cloze, weights)
    change, cloze_change, p = by_label.unavailable(), by_cloze.unavailable(), None
    if condition.g_condition == "gstar":
        reference = answers[baseline]
        change = by_label.minus(accuracy(reference.correct, weights))
        cloze_change = by_cloze.minus(accuracy(reference.correct_cloze, weights))
        discordant = mcnemar(reference.correct, found.correct)
        p = discordant.p
        if condition.g == baseline:
            notes.append(f"g* is {baseline:g}: the same run")
        else:
            notes.append(f"n discordant = {discordant.total}: {discordant.lost} lost and {discordant.gained} gained at g*")
    if found.n_tied:
        notes.append(f"{found.n_tied} questions have tied choices: the first counts")
    return head.row(
        spike_def_id=condition.spike_def,
        target_rate=condition.target_rate,
        g_condition=condition.g_condition,
        g=condition.g,
        n_questions=len(found.correct),
        **with_interval("accuracy", by_label),
        mean_logprob_correct_minus_incorrect=float(found.margin.mean()),
        **with_interval("opt_acc_norm", accuracy(found.correct_norm, weights)),
        **with_interval("opt_acc_cloze", by_cloze),
        opt_chance=chance_level(found.n_choices),
        opt_same_place_share=float(np.bincount(found.place).max() / len(found.place)),
        opt_mcnemar_p=p,
        **with_interval("opt_delta_accuracy", change),
        **with_interval("opt_delta_acc_cloze", cloze_change),
        opt_note="; ".join(notes) or None,
    )
