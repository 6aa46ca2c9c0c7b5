"""Log-probabilities of choices against lm-evaluation-harness, on the questions of the demo (spec 17).

The harness is asked what it asks of a model in its own ARC tasks: the log-likelihood of a continuation after a context.
"""

from typing import Any

import numpy as np
import pytest
import tiny

from avalanche_llm.model.choices import encode_questions, score_choices
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.questions import Question, read_questions
from avalanche_llm.settings_sources import ArcData

huggingface = pytest.importorskip("lm_eval.models.huggingface")
instance = pytest.importorskip("lm_eval.api.instance")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    if not tiny.DEMO_MODEL.exists():
        pytest.skip("the demo's model is not here: `make model`")
    return tiny.loaded(tiny.DEMO_MODEL)


@pytest.fixture(scope="module")
def questions() -> tuple[Question, ...]:
    data = {"hf_id": str(tiny.QUESTIONS), "hf_config": None, "split": "test", "chat_template": False}
    return read_questions(ArcData(**data, prompt_template_id="ARC_MCQ_V1", n_questions=12))


def of_harness(model: LoadedModel, asked: list[tuple[str, str]]) -> np.ndarray:
    """Log-likelihoods in nats as the harness computes them."""
    harness = huggingface.HFLM(pretrained=model.causal, tokenizer=model.tokenizer, batch_size=4)
    requests: list[Any] = [instance.Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(asked)]
    return np.array([logprob for logprob, _ in harness.loglikelihood(requests, disable_tqdm=True)])


@pytest.mark.parametrize("form", ["listed", "cloze"])
def test_choices_score_as_in_the_harness(form: str, model: LoadedModel, questions: tuple[Question, ...]) -> None:
    encoded = getattr(encode_questions(model, questions, chat_template=False), form)
    ours = np.concatenate(
        score_choices(model, encoded, plan=GainPlan.uniform("MLP", 1.0, model.n_layers), batch_tokens=1024)
    )
    asked = [
        (question.prompt if form == "listed" else question.cloze_prompt, " " + choice)
        for question in questions
        for choice in ((*question.labels, *question.texts) if form == "listed" else question.texts)
    ]
    theirs = of_harness(model, asked)
    assert len(ours) == len(theirs) > 40
    np.testing.assert_allclose(ours, theirs, atol=3e-4, rtol=0)
    assert np.ptp(theirs) > 5
