"""Conversations as ids: only answers are trained, prompts are exact beginnings, messages cannot pose as turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.text.chat import BUILT_IN, ChatTemplate, Encoded
from lmcraft.text.tokenizer import Tokenizer

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is the distance?"},
    {"role": "assistant", "content": "About 93 million miles."},
    {"role": "user", "content": "How long does light take?"},
    {"role": "assistant", "content": "8.34 minutes."},
]
TOKENIZER = Tokenizer.train([message["content"] + " user assistant\n" for message in TALK] * 4, 330)
TEMPLATES = {name: ChatTemplate.load(name, TOKENIZER) for name in BUILT_IN}


@pytest.fixture(params=BUILT_IN)
def template(request: pytest.FixtureRequest) -> ChatTemplate:
    return TEMPLATES[request.param]


def trained_text(encoded: Encoded) -> str:
    return TOKENIZER.decode(
        [i for i, t in zip(encoded.ids, encoded.trained, strict=True) if t], skip_special=False
    )


def test_chatml_is_written_as_everybody_writes_it() -> None:
    """If this failed, our models could not be served by others under the name chatml."""
    assert TEMPLATES["chatml"].render(TALK[1:3], generation=True) == (
        "<|endoftext|><|im_start|>user\nWhat is the distance?<|im_end|>\n"
        "<|im_start|>assistant\nAbout 93 million miles.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_plain_is_the_format_of_the_chapter() -> None:
    """If this failed, the readers of the chapter would not find its format again."""
    assert TEMPLATES["plain"].render(TALK[1:]) == (
        "<|endoftext|><user>\nWhat is the distance?\n<assistant>\nAbout 93 million miles.<|endoftext|>\n"
        "<user>\nHow long does light take?\n<assistant>\n8.34 minutes.<|endoftext|>\n"
    )


def test_answers_and_their_ends_are_trained_and_nothing_else(template: ChatTemplate) -> None:
    """If this failed, the model would learn to ask, or never to stop (traps 7 and 9)."""
    end = {"chatml": "<|im_end|>", "plain": "<|endoftext|>"}[template.name]
    encoded = template.encode(TALK)
    assert trained_text(encoded) == f"About 93 million miles.{end}8.34 minutes.{end}"
    assert TOKENIZER.decode(encoded.ids, skip_special=False) == template.render(TALK)
    assert len(encoded.ids) == len(encoded.trained)


def test_every_answer_ends_in_a_trained_stop(template: ChatTemplate) -> None:
    """If this failed, generation would go on until the window is full (traps 3 and 4)."""
    encoded = template.encode(TALK)
    stops = [i for i, t in zip(encoded.ids, encoded.trained, strict=True) if t and i in template.stop_ids]
    assert len(stops) == 2
    assert {TOKENIZER.eos, TOKENIZER.end_of_turn} == set(template.stop_ids)


def test_there_is_exactly_one_bos() -> None:
    """If this failed, training would begin with another token than serving (trap 5)."""
    for tokens in (TEMPLATES["chatml"].encode(TALK).ids, TEMPLATES["chatml"].prompt(TALK[:4])):
        assert tokens[0] == TOKENIZER.bos and tokens.count(TOKENIZER.bos) == 1
    # In `plain` the same token also ends answers: one more for each.
    assert TEMPLATES["plain"].encode(TALK).ids.count(TOKENIZER.bos) == 1 + 2


def test_a_tokenizer_without_bos_gets_none(tmp_path: Path) -> None:
    """If this failed, a template would write the word "None" where Qwen has nothing."""
    Tokenizer.train(["a b"], 300, ("<|im_start|>", "<|im_end|>")).save(tmp_path)
    bare = ChatTemplate.load("chatml", Tokenizer.load(tmp_path))
    assert bare.render(TALK[1:2]).startswith("<|im_start|>user")
    assert bare.stop_ids == [bare.tokenizer.end_of_turn]


def test_prompts_are_how_conversations_begin(template: ChatTemplate) -> None:
    """If this failed, the mask would be shifted, and the model asked in another way than taught (trap 6)."""
    whole = template.encode(TALK)
    first = [n for n, t in enumerate(whole.trained) if t and not whole.trained[n - 1]]
    for turn, start in zip((2, 4), first, strict=True):
        prompt = template.prompt(TALK[:turn])
        assert whole.ids[: len(prompt)] == prompt and len(prompt) == start


PARTS = [*TOKENIZER.specials, "assistant\n", "<user>", " ", "<|im_", "end|>"]
HOSTILE = st.one_of(
    st.text(alphabet=st.sampled_from("ab \n\t<|>\ue000é🤖"), max_size=12),
    st.lists(st.sampled_from(PARTS), max_size=6).map("".join),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    roles = [*(["system"] if draw(st.booleans()) else []), *(["user", "assistant"] * draw(st.integers(1, 3)))]
    return [{"role": role, "content": draw(HOSTILE)} for role in roles]


@given(conversations())
def test_no_content_can_end_a_turn_or_shift_the_mask(talk: list[dict[str, str]]) -> None:
    """If this failed, a user could write the assistant's lines, or have their own text trained."""
    template = TEMPLATES["chatml"]
    encoded = template.encode(talk)
    answers = [message["content"] for message in talk if message["role"] == "assistant"]
    assert trained_text(encoded) == "".join(answer + "<|im_end|>" for answer in answers)
    # Each message has one beginning and one end, whatever is written in it.
    assert encoded.ids.count(TOKENIZER.id("<|im_start|>")) == len(talk)
    assert encoded.ids.count(TOKENIZER.end_of_turn) == len(talk)
    assert encoded.ids.count(TOKENIZER.bos) == 1 and TOKENIZER.pad not in encoded.ids
    for turn, message in enumerate(talk):
        if message["role"] == "assistant":
            prompt = template.prompt(talk[:turn])
            assert encoded.ids[: len(prompt)] == prompt


@given(conversations())
def test_text_is_never_lost(talk: list[dict[str, str]]) -> None:
    """If this failed, hiding special tokens would change what somebody wrote."""
    for template in TEMPLATES.values():
        assert TOKENIZER.decode(template.encode(talk).ids, skip_special=False) == template.render(talk)


@given(st.lists(conversations(), max_size=3))
def test_many_are_each_alone(talks: list[list[dict[str, str]]]) -> None:
    """If this failed, a conversation's tokens would depend on its neighbours in the batch."""
    template = TEMPLATES["chatml"]
    assert template.encode_all(talks) == [template.encode(talk) for talk in talks]


def test_exchanges_begin_at_user_turns(template: ChatTemplate) -> None:
    """If this failed, long conversations would be split in the middle of an answer."""
    encoded = template.encode(TALK)
    system, second = encoded.exchanges
    text = template.render(TALK)
    assert TOKENIZER.decode(encoded.ids[:system], skip_special=False) == template.render(TALK[:1])
    assert TOKENIZER.decode(encoded.ids[:second], skip_special=False) == template.render(TALK[:3])
    assert text.startswith(template.render(TALK[:3]))
    assert template.encode(TALK[1:3]).exchanges == [0]


@dataclass
class Said:
    role: str
    content: str


def test_messages_may_be_objects(template: ChatTemplate) -> None:
    """If this failed, records and requests would need a conversion of their own."""
    assert template.encode([Said(**message) for message in TALK]) == template.encode(TALK)


def test_messages_are_left_alone() -> None:
    """If this failed, encoding a conversation would change the caller's copy of it."""
    talk = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "<|im_end|>"}]
    TEMPLATES["chatml"].encode(talk)
    assert [message["content"] for message in talk] == ["<|im_end|>"] * 2


def test_a_conversation_without_answers_trains_nothing(template: ChatTemplate) -> None:
    """If this failed, the stage could not tell such rows and report them (trap 7)."""
    assert not any(template.encode(TALK[:2]).trained)


def test_an_empty_answer_trains_the_end_only() -> None:
    """If this failed, an empty answer would shift the mask to what stands around it."""
    encoded = TEMPLATES["chatml"].encode([TALK[1], {"role": "assistant", "content": ""}])
    assert trained_text(encoded) == "<|im_end|>"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": ["a"]}],
        [{"role": "", "content": "x"}],
        [{"role": "user<|im_end|>", "content": "x"}],
        [{"role": "user\nassistant", "content": "x"}],
        [{"role": 7, "content": "x"}],
        [{"role": "user", "content": "\ud800"}],
    ],
)
def test_what_is_no_conversation_is_refused(messages: list) -> None:
    """If this failed, a role could write turns of its own, or a wrong row would be a traceback."""
    with pytest.raises(UserError):
        TEMPLATES["chatml"].encode(messages)
    with pytest.raises(UserError):
        TEMPLATES["chatml"].prompt(messages)


@pytest.mark.parametrize("name", ["chatlm", "nowhere.jinja", "/"])
def test_an_unknown_template_is_the_users_mistake(name: str) -> None:
    """If this failed, a misspelt name would be a traceback, or fall back to another template in silence."""
    with pytest.raises(UserError, match="no chat template") as error:
        ChatTemplate.load(name, TOKENIZER)
    assert ("did you mean chatml?" in str(error.value)) == (name == "chatlm")


def test_templates_are_read_from_files_and_directories(tmp_path: Path) -> None:
    """If this failed, a public model would be prompted with a template that is not its own."""
    source = "{% for m in messages %}{{ m.role + m.content + eos_token }}{% endfor %}"
    (tmp_path / "own.jinja").write_text(source)
    assert ChatTemplate.load(tmp_path / "own.jinja", TOKENIZER).source == source
    assert not ChatTemplate.exists(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "rag", "template": "rag"}, {"name": "default", "template": "default"}]}'
    )
    assert ChatTemplate.load(tmp_path, TOKENIZER).source == "default"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "one"}')
    assert ChatTemplate.load(tmp_path, TOKENIZER).source == "one"
    (tmp_path / "chat_template.jinja").write_text(source)
    assert ChatTemplate.exists(tmp_path) and ChatTemplate.load(tmp_path, TOKENIZER).source == source
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        ChatTemplate.load(tmp_path / "bad.jinja", TOKENIZER)
