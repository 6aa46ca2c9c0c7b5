"""Scores of choices: equal to a loop that runs the plain model once a choice, whatever is batched, padded or shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_families import CASES, causal_model

from avalanche_llm.errors import ConfigError, DataError
from avalanche_llm.model.choices import Prompted, encode_questions, score_choices
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.questions import Question

LETTERS = Question("Q1", "Which one swims?", ("A", "B", "C"), ("a stone", "a big fish", "a cloud"), 1)
NUMBERS = Question("Q2", "How many legs has a very long table with a bench?", tuple("12345"), tuple("vwxyz"), 0)
CHAT = "{% for m in messages %}<|end|>{{ m.role }}\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|end|>\nreply:{% endif %}"


@pytest.fixture(scope="module")
def llama(model_folder: Path) -> LoadedModel:
    return tiny.loaded(model_folder)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny.loaded(tiny.save_model(tiny.gemma2(), tmp_path_factory.mktemp("gemma2")), tiny.GEMMA2_HOOKS)


def drawn(seed: int, n_questions: int = 7) -> list[Prompted]:
    """Random token ids: prompts of very different lengths, continuations of one token and of several."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, tiny.VOCABULARY, size=length).tolist())

    return [
        Prompted(f"Q{place}", ids(int(rng.integers(3, 45))), tuple(ids(int(length)) for length in rng.choice([1, 1, 2, 5, 9], 6)))
        for place in range(n_questions)
    ]


def scores(model: LoadedModel, questions: list[Prompted], gain: float = 1.0, batch: int = 180) -> np.ndarray:
    plan = GainPlan.uniform("MLP", gain, model.n_layers)
    return np.concatenate(score_choices(model, questions, plan=plan, batch_tokens=batch))


def longest_first(questions: list[Prompted]) -> list[Prompted]:
    return sorted(questions, key=lambda question: -len(question.prompt))


def one_by_one(causal: Any, questions: list[Prompted]) -> np.ndarray:
    """The naive loop: one unpadded forward a choice, without a cache, and the log-softmax of every position."""
    found = []
    for question in questions:
        for choice in question.continuations:
            with torch.inference_mode():
                logits = causal(input_ids=torch.tensor([[*question.prompt, *choice]]), use_cache=False).logits[0]
            logprobs = logits.double().log_softmax(dim=-1)
            start = len(question.prompt) - 1
            found.append(sum(float(logprobs[start + place, token]) for place, token in enumerate(choice)))
    return np.array(found)


@contextmanager
def counted(model: LoadedModel) -> Iterator[list[tuple[int, int]]]:
    """The shape of the input of every forward pass inside."""
    shapes: list[tuple[int, int]] = []

    def count(module: Any, arguments: Any) -> None:
        shapes.append(tuple(arguments[0].shape[:2]))

    handle = model.layers[0].register_forward_pre_hook(count)
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_score_choices_equals_a_loop_over_single_choices(family: str, request: pytest.FixtureRequest) -> None:
    model, questions = request.getfixturevalue(family), drawn(1)
    expected = one_by_one(model.causal, questions)
    np.testing.assert_allclose(scores(model, questions), expected, atol=1e-5, rtol=0)
    assert np.ptp(expected) > 10


@pytest.mark.parametrize("name", CASES)
def test_score_choices_equals_the_loop_in_every_family(name: str, tmp_path: Path) -> None:
    """Learned, rotary and relative positions, sliding windows, scaled logits: padding and the shared cache move none of them."""
    model = tiny.loaded(tiny.save_model(causal_model(CASES[name].model_type, CASES[name].config), tmp_path))
    questions = drawn(8, 5)
    np.testing.assert_allclose(scores(model, questions), one_by_one(model.causal, questions), atol=3e-5, rtol=0)


def test_score_choices_equals_the_loop_at_a_gain_that_is_in_the_weights(llama: LoadedModel, model_folder: Path) -> None:
    """The gain scales what the MLP adds, in the prompt and in the choice: the same as scaling its last projection."""
    scaled = tiny.loaded(model_folder).causal
    for layer in scaled.base_model.layers:
        layer.mlp.down_proj.weight.data *= 1.3
    questions = drawn(2)
    np.testing.assert_allclose(scores(llama, questions, gain=1.3), one_by_one(scaled, questions), atol=1e-5, rtol=0)
    assert np.abs(scores(llama, questions, gain=1.3) - scores(llama, questions)).max() > 0.1


def test_score_choices_at_gain_one_hooks_nothing(llama: LoadedModel) -> None:
    """Bit for bit the plain model's decoder on the same padded batch, and its head on the last positions."""
    questions = [replace(question, continuations=((5,), (9,))) for question in longest_first(drawn(3, 3))]
    longest = len(questions[0].prompt)
    ids = torch.tensor([[*question.prompt, *[0] * (longest - len(question.prompt))] for question in questions])
    mask = torch.tensor([[1] * len(question.prompt) + [0] * (longest - len(question.prompt)) for question in questions])
    with torch.inference_mode():
        hidden = llama.decoder(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[range(len(questions)), mask.sum(dim=1) - 1]
        logits = llama.causal.get_output_embeddings()(last[None])[0].double().log_softmax(dim=-1)
    assert scores(llama, questions).tolist() == logits[:, [5, 9]].flatten().tolist()
    assert scores(llama, questions, gain=1.1).tolist() != logits[:, [5, 9]].flatten().tolist()


@pytest.mark.parametrize("batch", [1, 60, 250, 5000])
def test_score_choices_does_not_depend_on_the_batch(batch: int, llama: LoadedModel) -> None:
    questions = drawn(4)
    np.testing.assert_allclose(scores(llama, questions, batch=batch), scores(llama, questions, batch=100), atol=1e-5, rtol=0)
    backwards = score_choices(llama, questions[::-1], plan=GainPlan.uniform("MLP", 1.0, 3), batch_tokens=batch)
    np.testing.assert_allclose(np.concatenate(backwards[::-1]), scores(llama, questions, batch=100), atol=1e-5, rtol=0)


def test_score_choices_runs_each_prompt_once_and_no_more_of_a_choice_than_is_asked(llama: LoadedModel) -> None:
    questions, done = drawn(5, 5), list[int]()
    lengths = [len(question.prompt) + sum(len(choice) - 1 for choice in question.continuations) for question in questions]
    two_rows = 3 * max(lengths) - 1
    with counted(llama) as shapes:
        score_choices(llama, questions, plan=GainPlan.uniform("MLP", 1.0, 3), batch_tokens=two_rows, advance=done.append)
    assert (done[0], sum(done)) == (2, 5)
    assert max(rows * width for rows, width in shapes) <= two_rows
    longest_first, ends = sorted(lengths, reverse=True), np.cumsum(done)
    assert shapes == [(end - start, longest_first[start]) for start, end in zip((0, *ends), ends, strict=False)]


def test_a_family_that_takes_positions_from_the_mask_reads_each_longer_choice_after_its_own_prompt(tmp_path: Path) -> None:
    case = CASES["bloom"]
    bloom = tiny.loaded(tiny.save_model(causal_model(case.model_type, case.config), tmp_path))
    question = Prompted("Q", (4,) * 9, ((5,), (6, 7), (8, 9, 10), (11,)))
    with counted(bloom) as shapes:
        found = scores(bloom, [question, replace(question, continuations=((5,), (6,)))], batch=36)
    assert shapes == [(3, 11)]
    assert scores(bloom, [question], batch=1).tolist() == pytest.approx(found[:4].tolist(), abs=1e-5)


def test_labels_of_one_token_take_one_forward_a_batch(llama: LoadedModel) -> None:
    questions = [replace(question, prompt=(4,) * 20, continuations=((5,), (9,), (7,))) for question in drawn(6, 6)]
    with counted(llama) as shapes:
        found = scores(llama, questions, batch=60)
    assert [rows for rows, _ in shapes] == [3, 3]
    np.testing.assert_allclose(found, one_by_one(llama.causal, questions), atol=1e-5, rtol=0)


def test_score_choices_stops_at_a_score_that_is_not_finite(model_folder: Path) -> None:
    broken = tiny.loaded(model_folder)
    broken.causal.get_output_embeddings().weight.data[3] = float("nan")
    with pytest.raises(DataError, match=r"question Q\d: log-probabilities became NaN or infinite at gain 1\.1; use --dtype fp32"):
        scores(broken, drawn(7), gain=1.1)


def test_encode_questions_splits_prompt_and_choice(llama: LoadedModel) -> None:
    encoded = encode_questions(llama, [LETTERS, NUMBERS], chat_template=False)

    def decoded(ids: tuple[int, ...]) -> str:
        return str(llama.tokenizer.decode(ids))

    for question, listed, cloze in zip((LETTERS, NUMBERS), encoded.listed, encoded.cloze, strict=True):
        assert listed.question_id == cloze.question_id == question.question_id
        assert decoded(listed.prompt) == question.prompt
        assert decoded(cloze.prompt) == question.cloze_prompt
        assert [decoded(ids) for ids in listed.continuations] == [f" {choice}" for choice in (*question.labels, *question.texts)]
        assert [decoded(ids) for ids in cloze.continuations] == [f" {text}" for text in question.texts]
        for text, ids in zip(question.texts, cloze.continuations, strict=True):
            assert (*cloze.prompt, *ids) == tuple(llama.tokenizer(f"{question.cloze_prompt} {text}")["input_ids"])


def test_encode_questions_in_a_chat_is_the_users_turn_and_the_reply_has_no_space(model_folder: Path) -> None:
    model = tiny.loaded(model_folder)
    model.tokenizer.chat_template = CHAT
    encoded = encode_questions(model, [LETTERS], chat_template=True)
    decode = model.tokenizer.decode
    assert decode(encoded.listed[0].prompt) == f"<|end|>user\n{LETTERS.prompt}<|end|>\nreply:"
    assert decode(encoded.cloze[0].prompt) == f"<|end|>user\n{LETTERS.cloze_prompt}<|end|>\nreply:"
    assert [decode(ids) for ids in encoded.listed[0].continuations] == ["A", "B", "C", *LETTERS.texts]
    assert encoded.listed[0].prompt.count(model.tokenizer.eos_token_id) == 2  # as special tokens, not as their letters


def test_encode_questions_refuses_a_template_with_a_token_that_the_model_does_not_embed(model_folder: Path) -> None:
    """A chat's own tokens are often added to the tokenizer, and the model was not resized."""
    model = tiny.loaded(model_folder)
    model.tokenizer.add_tokens(["<|reply|>"], special_tokens=True)
    model.tokenizer.chat_template = CHAT.replace("reply:", "<|reply|>")
    with pytest.raises(DataError, match=r"gives token id 320, the model embeds 320; they do not match: use the tokenizer that"):
        encode_questions(model, [LETTERS], chat_template=True)


def test_encode_questions_refuses_a_chat_without_a_template(llama: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"has no chat template; set datasets\.ARC_MCQ\.chat_template to false"):
        encode_questions(llama, [LETTERS], chat_template=True)


def with_tokenizer(model: LoadedModel, build: Callable[[], Any]) -> LoadedModel:
    from transformers import PreTrainedTokenizerFast

    return replace(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=build(), bos_token="<s>", eos_token="</s>"))


def test_encode_questions_begins_as_the_tokenizer_begins_a_text_and_ends_nothing(llama: LoadedModel) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    def build() -> Tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: place for place, token in enumerate(["<s>", "</s>", *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = [("<s>", 0), ("</s>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
        return tokenizer

    (listed,) = encode_questions(with_tokenizer(llama, build), [LETTERS], chat_template=False).listed
    assert listed.prompt[0] == 0 and listed.prompt.count(0) == 1
    assert not {0, 1} & {token for ids in (listed.prompt[1:], *listed.continuations) for token in ids}
    assert len(listed.prompt) == 1 + len(LETTERS.prompt)


def test_encode_questions_takes_no_end_of_text_for_a_beginning(llama: LoadedModel) -> None:
    """One token serves as both, and the tokenizer puts it after a text only."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = llama.tokenizer.backend_tokenizer.from_str(llama.tokenizer.backend_tokenizer.to_str())
    end = llama.tokenizer.eos_token
    ends = [(end, llama.tokenizer.eos_token_id)]
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)
    (listed,) = encode_questions(replace(llama, tokenizer=tokenizer), [LETTERS], chat_template=False).listed
    assert llama.tokenizer.eos_token_id not in listed.prompt


@pytest.mark.parametrize("merges", [[(":", " ")], [(":", " "), (": ", "A")]])
def test_encode_questions_refuses_a_tokenizer_that_joins_prompt_and_choice(
    merges: list[tuple[str, str]], llama: LoadedModel
) -> None:
    from tokenizers import Tokenizer, models

    def build() -> Tokenizer:
        """A BPE without a pre-tokeniser, so that a merge may cross the space: ': A' as ': ', 'A' or as one token."""
        letters = sorted(set(LETTERS.prompt + "".join(LETTERS.texts)) | {" "})
        vocabulary = {token: place for place, token in enumerate(["<s>", "</s>", *letters, ": ", ": A"])}
        return Tokenizer(models.BPE(vocab=vocabulary, merges=merges))

    with pytest.raises(DataError, match="question Q1: expected the tokens of the prompt to stay as they are when ' A' follows"):
        encode_questions(with_tokenizer(llama, build), [LETTERS], chat_template=False)


def test_encode_questions_refuses_what_the_model_cannot_read(llama: LoadedModel, gemma: LoadedModel) -> None:
    long = replace(LETTERS, question_id="LONG", text="word " * 400)
    with pytest.raises(DataError, match=r"question LONG: prompt and longest choice take up to \d+ tokens, the model reads 512"):
        encode_questions(llama, [LETTERS, long], chat_template=False)
    with pytest.raises(DataError, match="the model reads 64"):  # the sliding window is the shorter of the two
        encode_questions(gemma, [LETTERS, replace(long, text="word " * 20)], chat_template=False)
