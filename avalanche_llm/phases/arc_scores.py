"""The model's part of phase 6 on the ARC questions: every choice of every question scored once a gain (S06ARC; spec 17).

arc_questions.parquet, a row a (gain, question): what was asked, the log-probabilities in nats, what was answered. The lists
have one item a choice. `*_norm` is the full answer's log-probability per UTF-8 byte after the prompt that lists the choices,
`*_cloze` the same after the question alone. Tables come from these rows alone.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from avalanche_llm.errors import DeterminismError
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import parquet, read_parquet
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.accuracy import margin, pick
from avalanche_llm.model.choices import EncodedQuestions, encode_questions, score_choices
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.phases.context import open_model
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.parts import is_kept, keep, part_path
from avalanche_llm.progress import progress
from avalanche_llm.questions import ROLE, Question, describe_questions, read_questions

SCHEMA: Final = pa.schema(
    [
        ("gain_id", pa.int16()),
        ("g", pa.float64()),
        ("question_index", pa.int32()),
        ("question_id", pa.string()),
        ("n_choices", pa.int64()),
        ("answer", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("tied", pa.bool_()),
        ("predicted_norm", pa.string()),
        ("correct_norm", pa.bool_()),
        ("tied_norm", pa.bool_()),
        ("predicted_cloze", pa.string()),
        ("correct_cloze", pa.bool_()),
        ("tied_cloze", pa.bool_()),
        ("margin", pa.float64()),
        ("labels", pa.list_(pa.string())),
        ("label_logprob", pa.list_(pa.float64())),
        ("answer_logprob", pa.list_(pa.float64())),
        ("cloze_logprob", pa.list_(pa.float64())),
        ("answer_bytes", pa.list_(pa.int64())),
    ]
)


def score_gains(job: Job, run: Run, gains: Sequence[float], upstream: Upstream) -> None:
    """Score the questions once at every gain and write the rows; what an earlier attempt of this run left is kept."""
    missing = [gain for gain in gains if not _is_kept(run, gain)]
    if missing:
        model = open_model(job, run, upstream)
        questions = read_questions(job.settings.datasets.ARC_MCQ)
        encoded = encode_questions(model, questions, chat_template=job.settings.datasets.ARC_MCQ.chat_template)
        _use_questions(job, run, questions, encoded)
        for gain in missing:
            _score(job, run, model, questions, encoded, gain)
    run.save("arc_questions", parquet(pa.concat_tables([read_scores(part_path(run, _part(gain))) for gain in gains])))


def read_scores(path: Path) -> pa.Table:
    """The rows of a scores file. Raises MissingArtifact if it is no such table."""
    return read_parquet(path, SCHEMA)


def _score(
    job: Job, run: Run, model: LoadedModel, questions: Sequence[Question], encoded: EncodedQuestions, gain: float
) -> None:
    began = monotonic()
    with progress(f"questions, gain {gain:g}", 2 * len(questions), "prompts") as advance:
        scores = score_choices(
            model,
            (*encoded.listed, *encoded.cloze),
            plan=GainPlan.uniform("MLP", gain, model.n_layers),
            batch_tokens=job.settings.pipeline.batch_windows * job.settings.pipeline.seq_len_tokens,
            advance=advance,
        )
    listed, cloze = scores[: len(questions)], scores[len(questions) :]
    seconds = monotonic() - began
    head = {"gain_id": job.settings.gains.grid.index(gain), "g": gain}
    rows = [
        {**head, "question_index": index, **_answer_columns(*answered)}
        for index, answered in enumerate(zip(questions, listed, cloze, strict=True))
    ]
    keep(run, _part(gain), pa.Table.from_pylist(rows, schema=SCHEMA))
    run.time("forward_s", seconds)
    run.log("gain_measured", g=gain, seconds=round(seconds, 3), questions=len(questions))


def _answer_columns(
    question: Question, listed: Float64[np.ndarray, " continuation"], cloze: Float64[np.ndarray, " choice"]
) -> dict[str, object]:
    """What one question was answered. `listed` holds the scores of the labels, then of the answers."""
    label, answer = np.split(listed, 2)
    n_bytes = np.array([len(text.encode()) for text in question.texts])
    columns: dict[str, object] = {}
    for form, scores in (("", label), ("_norm", answer / n_bytes), ("_cloze", cloze / n_bytes)):
        chosen = pick(scores)
        columns |= {
            f"predicted{form}": question.labels[chosen.place],
            f"correct{form}": chosen.place == question.answer,
            f"tied{form}": chosen.tied,
        }
    return columns | {
        "question_id": question.question_id,
        "n_choices": len(question.labels),
        "answer": question.labels[question.answer],
        "margin": margin(label, question.answer),
        "labels": list(question.labels),
        "label_logprob": label.tolist(),
        "answer_logprob": answer.tolist(),
        "cloze_logprob": cloze.tolist(),
        "answer_bytes": n_bytes.tolist(),
    }


def _use_questions(job: Job, run: Run, questions: Sequence[Question], encoded: EncodedQuestions) -> None:
    """Put the questions on record; DeterminismError if an earlier attempt of this run was asked others, or in other tokens."""
    entry = describe_questions(job.settings.datasets.ARC_MCQ, questions) | {"prompt_ids_sha256": _ids_sha256(encoded)}
    earlier = run.record["dataset"].get(ROLE, entry)
    for key in ("sha256", "prompt_ids_sha256"):
        if earlier[key] != entry[key]:
            raise DeterminismError(
                f"the questions are not those that {run.run_id} began with ({key}: {entry[key]}, expected {earlier[key]}); "
                "restore the data set and the tokenizer, or remove the run"
            )
    run.describe(dataset={ROLE: entry})
    run.describe(hashes={"dataset_slice_sha256": run.record["hashes"]["dataset_slice_sha256"] | {ROLE: entry["sha256"]}})
    run.log("dataset_loaded", **entry)


def _ids_sha256(encoded: EncodedQuestions) -> str:
    """Hash over every id list that the model is given, in order."""
    digest = hashlib.sha256()
    for question in (*encoded.listed, *encoded.cloze):
        for ids in (question.prompt, *question.continuations):
            digest.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return digest.hexdigest()


def _is_kept(run: Run, gain: float) -> bool:
    return is_kept(run, _part(gain), read_scores)


def _part(gain: float) -> str:
    return f"arc_{gain!r}"
