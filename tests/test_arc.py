"""Phase 6 on the ARC questions with the tiny model: each gain once, pairs, resumption, and tables without the model."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from PIL import Image
from scipy.stats import binomtest

from avalanche_llm.cli import main
from avalanche_llm.errors import ConfigError, DeterminismError, MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.metrics.gstar import refuse_task_metrics
from avalanche_llm.metrics.stats import bootstrap_weights, t_interval
from avalanche_llm.phases import arc_scores, context
from avalanche_llm.phases.arc import evaluate_arc, tables
from avalanche_llm.phases.job import Job
from avalanche_llm.plan import plan_lines, plan_phase
from avalanche_llm.plotting.export import table_files
from avalanche_llm.questions import read_questions
from avalanche_llm.stages import stages

PHASE, TABLE = "PHASE6_ARC_MCQ_EVAL", "T03_ARC"
CHOSEN = [0.8, 1.0, 1.3, 1.1]
"""A g* for each cell of the tiny config, one of them the baseline."""
GAINS = sorted({1.0, *CHOSEN})
N = tiny.N_QUESTIONS


def upstream(pipeline: Path, runs: Path, gains: list[float] = CHOSEN) -> Path:
    """A runs folder of our own with the selection alone, made to have chosen these g*."""
    tiny.copied(pipeline, runs, "S02B")
    tiny.rewritten(tiny.run_of(runs, "S02B"), "gstar", tiny.choosing(gains))
    return runs


@pytest.fixture(scope="module")
def evaluated(pipeline: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A runs folder with the phase complete, and how many prompts it sent through the model. Read only."""
    runs = upstream(pipeline, tmp_path_factory.mktemp("arc") / "runs")
    job = tiny.job_of(config, runs)
    with tiny.counted_windows(job) as sizes:
        evaluate_arc(job)
    return runs, sum(sizes)


def folder_of(runs: Path) -> Path:
    return tiny.run_of(runs, "S06ARC")


def answers(runs: Path) -> pd.DataFrame:
    return pd.read_parquet(folder_of(runs) / "results" / "arc_questions.parquet")


def table(runs: Path) -> pd.DataFrame:
    return pd.read_parquet(folder_of(runs) / "tables" / "table_T03_ARC.parquet")


def outputs(runs: Path) -> dict[str, str]:
    return tiny.outputs(folder_of(runs))


def test_every_distinct_gain_asks_each_question_once_in_both_forms(evaluated: tuple[Path, int]) -> None:
    runs, prompts = evaluated
    assert prompts == len(GAINS) * N * 2
    rows = answers(runs)
    assert rows["g"].tolist() == [gain for gain in GAINS for _ in range(N)]
    assert rows["question_index"].tolist() == list(range(N)) * len(GAINS)
    assert {tiny.GAINS[index] for index in rows["gain_id"]} == set(GAINS)
    log = tiny.events_of(folder_of(runs))
    assert [line["payload"]["g"] for line in log if line["event_type"] == "gain_measured"] == GAINS


def test_answers_are_those_of_a_loop_over_single_choices(evaluated: tuple[Path, int], config: Path) -> None:
    """Text to score with nothing of the pipeline but the prompt: the plain model, one choice at a time."""
    runs, _ = evaluated
    job = tiny.job_of(config, runs)
    plain = tiny.model_of(job)

    def logprob(prompt: str, choice: str) -> float:
        start, whole = (plain.tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompt, f"{prompt} {choice}"))
        with torch.inference_mode():
            each = plain.causal(input_ids=whole).logits[0].double().log_softmax(dim=-1)
        places = range(start.shape[1], whole.shape[1])
        return sum(float(each[place - 1, whole[0, place]]) for place in places)

    rows = answers(runs)
    for question, row in zip(read_questions(job.settings.datasets.ARC_MCQ), rows[rows["g"] == 1.0].to_dict("records"), strict=True):
        assert (row["question_id"], row["n_choices"]) == (question.question_id, len(question.labels))
        assert (tuple(row["labels"]), row["answer"]) == (question.labels, question.labels[question.answer])
        label = [logprob(question.prompt, choice) for choice in question.labels]
        answer = [logprob(question.prompt, text) for text in question.texts]
        cloze = [logprob(question.cloze_prompt, text) for text in question.texts]
        for name, expected in (("label", label), ("answer", answer), ("cloze", cloze)):
            np.testing.assert_allclose(row[f"{name}_logprob"], expected, atol=1e-5, rtol=0)
        n_bytes = [len(text.encode()) for text in question.texts]
        assert row["answer_bytes"].tolist() == n_bytes
        for form, score in (("", np.array(label)), ("_norm", np.divide(answer, n_bytes)), ("_cloze", np.divide(cloze, n_bytes))):
            assert row[f"predicted{form}"] == question.labels[int(np.argmax(score))]
            assert row[f"correct{form}"] == (row[f"predicted{form}"] == row["answer"])
            assert not row[f"tied{form}"]
        wrong = [value for place, value in enumerate(label) if place != question.answer]
        assert row["margin"] == pytest.approx(label[question.answer] - np.mean(wrong), abs=1e-5)


def test_t03_is_the_mean_of_the_answers_with_paired_differences(evaluated: tuple[Path, int], config: Path) -> None:
    runs, _ = evaluated
    rows, settings = answers(runs), tiny.job_of(config, runs).settings
    weights = bootstrap_weights(N, reps=settings.statistics.bootstrap_reps, seed=settings.statistics.bootstrap_seed)
    exported = table(runs)
    assert exported["g"].tolist() == [gain for chosen in CHOSEN for gain in (1.0, chosen)]
    at_one = rows[rows["g"] == 1.0]
    for row in exported.to_dict("records"):
        at = rows[rows["g"] == row["g"]]
        assert (row["dataset_role"], row["stage_id"], row["n_questions"]) == ("ARC_MCQ", "S06ARC", N)
        for name, column in (("accuracy", "correct"), ("opt_acc_norm", "correct_norm"), ("opt_acc_cloze", "correct_cloze")):
            assert row[name] == at[column].mean()
            drawn = (weights * at[column].to_numpy()).sum(axis=1) / N
            expected = t_interval(float(row[name]), drawn, weights, scale="arcsine")
            assert [row[f"{name}_ci_low"], row[f"{name}_ci_high"]] == pytest.approx([expected.low, expected.high])
        assert row["mean_logprob_correct_minus_incorrect"] == pytest.approx(at["margin"].mean())
        assert row["opt_chance"] == pytest.approx((1 / at["n_choices"]).mean())
        places = [list(labels).index(label) for labels, label in zip(at["labels"], at["predicted"], strict=True)]
        assert row["opt_same_place_share"] == max(map(places.count, places)) / N
        if row["g_condition"] == "g1":
            assert np.isnan([row[name] for name in row if "delta" in name or "mcnemar" in name]).all()
            continue
        for name, column in (("opt_delta_accuracy", "correct"), ("opt_delta_acc_cloze", "correct_cloze")):
            change = at[column].to_numpy(dtype=int) - at_one[column].to_numpy(dtype=int)
            drawn = weights @ change / N
            assert row[name] == pytest.approx(change.mean())
            expected = t_interval(float(row[name]), drawn, weights)
            assert [row[f"{name}_ci_low"], row[f"{name}_ci_high"]] == pytest.approx([expected.low, expected.high])
        gained = int((at["correct"].to_numpy() & ~at_one["correct"].to_numpy()).sum())
        lost = int((~at["correct"].to_numpy() & at_one["correct"].to_numpy()).sum())
        if row["g"] != 1.0:
            assert row["opt_mcnemar_p"] == (pytest.approx(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0)
            assert row["opt_note"] == f"n discordant = {lost + gained}: {lost} lost and {gained} gained at g*"
    assert exported["opt_note"].str.contains("n discordant = [1-9]").any()


def test_a_gstar_of_one_is_its_g1_row_without_a_difference(evaluated: tuple[Path, int]) -> None:
    rows = table(evaluated[0])
    pair = rows[(rows["spike_def_id"] == "SPIKE_ONE_SIDED_POS") & (rows["target_rate"] == tiny.RATES[1])]
    first, second = pair.drop(columns="g_condition").to_dict("records")
    assert second["opt_note"] == "g* is 1: the same run" and second["opt_mcnemar_p"] == 1.0
    for name in first:
        if "delta" in name:
            assert second[name] == 0.0
        elif name not in ("opt_note", "opt_mcnemar_p"):
            assert second[name] == first[name]


def test_tables_of_a_complete_run_need_no_model_and_give_the_same_bytes(
    evaluated: tuple[Path, int], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job_of(config, evaluated[0])
    monkeypatch.setattr(context, "_loaded", lambda *_: pytest.fail("the model was asked for"))
    found = tables(job, job.upstream(PHASE))
    assert list(found) == [TABLE]
    folder = folder_of(evaluated[0])
    written = read_record(folder)["artifacts"]
    for name, data in table_files(TABLE, found[TABLE]).items():
        assert (folder / written[name]).read_bytes() == data


def test_tied_choices_count_as_the_first_and_are_told(
    pipeline: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        arc_scores,
        "score_choices",
        lambda model, questions, **_: [np.full(len(question.continuations), -2.0) for question in questions],
    )
    runs = upstream(pipeline, tmp_path / "runs")
    evaluate_arc(tiny.job_of(config, runs))
    rows = answers(runs)
    assert rows["tied"].all() and (rows["margin"] == 0).all()
    assert (rows["predicted"] == [labels[0] for labels in rows["labels"]]).all()
    exported = table(runs)
    assert (exported["opt_same_place_share"] == 1.0).all()
    assert exported["opt_note"][0] == f"{N} questions have tied choices: the first counts"
    assert exported["opt_note"][1].startswith("n discordant = 0: 0 lost and 0 gained at g*; ")


def test_a_run_in_another_runs_folder_has_the_same_id_and_the_same_bytes(
    evaluated: tuple[Path, int], pipeline: Path, config: Path, tmp_path: Path
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    evaluate_arc(tiny.job_of(config, other))
    assert folder_of(other).name == folder_of(evaluated[0]).name
    assert outputs(other) == outputs(evaluated[0])
    assert len(outputs(other)) == 1 + 2 + 2


def test_the_figure_carries_its_provenance(evaluated: tuple[Path, int]) -> None:
    data = (folder_of(evaluated[0]) / "figs" / "fig_F07_ARC_MCQ.png").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        stamped = dict(image.text)  # type: ignore[attr-defined]  # only PNG images have it
    assert (stamped["dataset_role"], stamped["run_id"]) == ("ARC_MCQ", folder_of(evaluated[0]).name)


def test_the_record_names_the_questions_and_the_selection(evaluated: tuple[Path, int]) -> None:
    runs, _ = evaluated
    record = read_record(folder_of(runs))
    entry = record["dataset"]["ARC_MCQ"]
    assert (entry["n_questions"], entry["split"], entry["prompt_template_id"]) == (N, "test", "ARC_MCQ_V1")
    assert entry["source_sha256"] == hashlib.sha256(tiny.QUESTIONS.read_bytes()).hexdigest()
    assert record["hashes"]["dataset_slice_sha256"] == {"ARC_MCQ": entry["sha256"]}
    assert [found["run_id"] for found in record["dependencies"]] == [tiny.run_of(runs, "S02B").name]


def interrupted_after(job: Job, n_gains: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the phase and stop it before gain number `n_gains` + 1 is scored."""
    real, calls = arc_scores._score, 0

    def stop(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > n_gains:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(arc_scores, "_score", stop)
        evaluate_arc(job)


@pytest.mark.parametrize("lost", [False, True])
def test_a_resumed_run_skips_finished_gains_and_ends_in_the_same_bytes(
    lost: bool, evaluated: tuple[Path, int], pipeline: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    interrupted_after(tiny.job_of(config, other), 2, monkeypatch)
    if lost:
        part = folder_of(other) / "cache" / "arc_0.8.parquet"
        part.write_bytes(part.read_bytes()[:50])
    resumed = tiny.job_of(config, other, allow_resume=True)
    with tiny.counted_windows(resumed) as sizes:
        evaluate_arc(resumed)
    assert sum(sizes) == (len(GAINS) - 2 + lost) * N * 2
    assert outputs(other) == outputs(evaluated[0])
    assert not (folder_of(other) / "cache").exists()


def test_questions_that_changed_between_two_attempts_stop_the_resumed_one(
    model_folder: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_bytes(tiny.QUESTIONS.read_bytes())
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, datasets__ARC_MCQ__hf_id=str(questions))
    runs = upstream(pipeline, tmp_path / "runs")
    interrupted_after(tiny.job_of(config, runs), 1, monkeypatch)
    questions.write_text(questions.read_text(encoding="utf-8").replace("the roots", "the bark"), encoding="utf-8")
    with pytest.raises(DeterminismError, match=r"the questions are not those that RUN_S06ARC_\w+ began with \(sha256"):
        evaluate_arc(tiny.job_of(config, runs, allow_resume=True))


def test_split_and_config_of_the_command_line_are_in_the_resolved_config_and_reach_the_questions(
    pipeline: Path, config: Path, evaluated: tuple[Path, int], tmp_path: Path
) -> None:
    runs = upstream(pipeline, tmp_path / "runs", [1.0] * 4)
    overrides = ["--arc_split", "validation", "--arc_config", "ARC-Easy"]
    assert main(["phase6_arc_mcq_eval", "--config", str(config), "--runs_dir", str(runs), *overrides]) == 0
    folder = folder_of(runs)
    resolved = yaml.safe_load((folder / "config_resolved.yaml").read_bytes())["datasets"]["ARC_MCQ"]
    assert (resolved["split"], resolved["hf_config"]) == ("validation", "ARC-Easy")
    entry = read_record(folder)["dataset"]["ARC_MCQ"]
    assert (entry["split"], entry["config"]) == ("validation", "ARC-Easy")
    assert folder.name != folder_of(evaluated[0]).name
    assert set(answers(runs)["g"]) == {1.0}  # g* is the baseline everywhere: one gain


def test_the_chat_arm_is_part_of_the_run_id_and_needs_a_template(
    pipeline: Path, model_folder: Path, evaluated: tuple[Path, int], tmp_path: Path
) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, datasets__ARC_MCQ__chat_template=True)
    runs = upstream(pipeline, tmp_path / "runs")
    with pytest.raises(ConfigError, match="has no chat template"):
        evaluate_arc(tiny.job_of(config, runs))
    assert folder_of(runs).name != folder_of(evaluated[0]).name


def test_evaluate_arc_needs_the_selection_and_begins_nothing_without_it(config: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="run phase2_select_gstar first"):
        evaluate_arc(tiny.job_of(config, tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_tables_refuse_answers_that_lack_a_question(evaluated: tuple[Path, int], config: Path) -> None:
    run = tiny.job_of(config, evaluated[0]).upstream(PHASE)
    run.record["dataset"]["ARC_MCQ"]["n_questions"] = N + 1
    with pytest.raises(MissingArtifact, match=f"has {N} rows at gain 0.8, one for each of {N + 1} questions was expected"):
        tables(tiny.job_of(config, evaluated[0]), run)


def test_no_column_of_t03_may_be_an_input_of_gstar(evaluated: tuple[Path, int]) -> None:
    exported = table(evaluated[0])
    tasks = [name for name in exported if "acc" in name or "logprob" in name or "mcnemar" in name]
    assert len(tasks) == 17
    for name in tasks:
        with pytest.raises(SchemaError, match=f"remove {name} from its inputs"):
            refuse_task_metrics(["spike_def_id", "target_rate", "g", "seq_id", "n_sites", name])


def test_plan_counts_a_question_as_a_window(
    evaluated: tuple[Path, int], config: Path, model_folder: Path, tmp_path: Path
) -> None:
    stage = stages()[PHASE]
    plan = plan_phase(tiny.job_of(config, evaluated[0]), stage)
    assert (plan.cost.n_passes, plan.cost.n_windows) == (len(GAINS), len(GAINS) * N)
    whole = tiny.write_config(tmp_path / "whole.yaml", model_folder, datasets__ARC_MCQ__n_questions=None)
    assert plan_phase(tiny.job_of(whole, evaluated[0]), stage).cost.n_windows == len(GAINS) * 60
    hub = tiny.job_of(
        tiny.write_config(
            tmp_path / "hub.yaml", model_folder, datasets__ARC_MCQ__hf_id="allenai/ai2_arc", datasets__ARC_MCQ__n_questions=None
        ),
        evaluated[0],
    )
    unknown = plan_phase(hub, stage)
    assert (unknown.cost.n_windows, unknown.cost.flops) == (0, None)
    assert "4 passes over every question; cost unknown (the data set is not on this machine)" in plan_lines(unknown, hub)[-1]
