"""Templates of the kinds that public models have: each is checked, and both ways to the layout agree."""

from __future__ import annotations

import random

import pytest

from lmcraft.core.errors import UserError
from lmcraft.text.chat import BUILT_IN, ChatTemplate
from lmcraft.text.layout import Layouts
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

NAMES = (*SPECIALS, "<s>", "</s>", "<|eot_id|>", "<|head|>", "<end_of_turn>", "<start_of_turn>")
WORDS = "hello world how are you the quick brown fox It's 12345 é 日本\n\n -".split(" ")
TOKENIZER = Tokenizer.train([" ".join(WORDS) + " user assistant model system INST"] * 3, 340, NAMES)

HEADER = """{{ bos_token }}{% for message in messages %}
{{- '<|head|>' + message['role'] + '<|head|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|head|>\n\n' }}{% endif %}"""

DEFAULT_SYSTEM = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

EOS_LINES = """{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"""

INSTRUCTION = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}
{% set system = messages[0]['content'] + '\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}
{{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}{% else %}
{{- ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""

OTHER_ROLE = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

MARKED = """{% for message in messages %}{% if message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

PUBLIC = {
    "header": HEADER, "default system": DEFAULT_SYSTEM, "eos lines": EOS_LINES, "instruction": INSTRUCTION,
    "other role": OTHER_ROLE, "marked": MARKED,
}  # fmt: skip
WITHOUT_SYSTEM = ("other role",)

THINKING = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and KEEP %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if SWITCH %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""


def load(name: str) -> ChatTemplate:
    source = PUBLIC.get(name)
    return ChatTemplate.load(name, TOKENIZER) if source is None else ChatTemplate(source, TOKENIZER, name)


def talk(chance: random.Random, name: str) -> list[dict[str, str]]:
    def words() -> str:
        edge = chance.choice(["", "", " ", "\n"])
        return edge + " ".join(chance.choices(WORDS, k=chance.randint(0, 6))) + edge

    system = ["system"] if chance.random() < 0.4 and name not in WITHOUT_SYSTEM else []
    roles = [*system, *(["user", "assistant"] * chance.randint(1, 4))]
    return [{"role": role, "content": words()} for role in roles]


@pytest.fixture(params=[*BUILT_IN, *PUBLIC])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_frames_give_what_checking_every_turn_gives(name: str) -> None:
    """If this failed, the fast way to the mask would be another mask than the checked one."""
    template, chance = load(name), random.Random(1)
    layouts = Layouts(template._render, template._layouts.ends, name)
    for _ in range(40):
        messages = talk(chance, name)
        for generation in (False, True):
            prompt = messages[:-1] if generation else messages
            checked = layouts._turn_by_turn(prompt, generation)
            assert layouts._from_frames(prompt, generation) in (checked, None)
            assert layouts.of(prompt, generation) == checked


def test_most_templates_have_frames(name: str) -> None:
    """If this failed, nothing would be checked by the test above, and long conversations would be slow."""
    messages = talk(random.Random(2), "other role")
    has = load(name)._layouts._from_frames(messages, False) is not None
    assert has


def test_prompts_are_how_conversations_begin(name: str) -> None:
    """If this failed, training would teach answers to prompts that are never asked (trap 6)."""
    template, chance = load(name), random.Random(3)
    for _ in range(25):
        messages = talk(chance, name)
        whole = template.encode(messages)
        for turn in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = template.prompt(messages[:turn])
            assert whole.ids[: len(prompt)] == prompt
            assert whole.trained[len(prompt)] and not whole.trained[len(prompt) - 1]
            assert template.render(messages[:turn], True) == TOKENIZER.decode(prompt, skip_special=False)


def test_rendering_is_that_of_transformers(name: str) -> None:
    """If this failed, a public model would see other prompts with us than with everybody else."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template, chance = load(name), random.Random(4)
    theirs = _compile_jinja_template(template.source)
    tokens = {"bos_token": TOKENIZER.roles.bos, "eos_token": TOKENIZER.roles.eos}
    for _ in range(10):
        messages = talk(chance, name)
        for upto, generation in ((messages, False), (messages[:-1], True)):
            expected = theirs.render(messages=upto, add_generation_prompt=generation, **tokens)
            assert template.render(upto, generation) == expected


def test_ids_are_those_of_the_whole_text(name: str) -> None:
    """If this failed, cutting at turns would change tokens even where no merge could cross the cut."""
    template = load(name)
    messages = [
        {"role": role, "content": "hello world"} for role in ("user", "assistant", "user", "assistant")
    ]
    assert template.encode(messages).ids == TOKENIZER.encode(template.render(messages))
    assert template.prompt(messages[:3]) == TOKENIZER.encode(template.render(messages[:3], True))


def test_stops_are_trained_and_known(name: str) -> None:
    """If this failed, the model would end its turn with a token that generation does not stop at (trap 4)."""
    template = load(name)
    messages = [{"role": role, "content": "hello"} for role in ("user", "assistant")]
    encoded = template.encode(messages)
    last = max(n for n, trained in enumerate(encoded.trained) if trained)
    assert encoded.ids[last] in template.stop_ids and TOKENIZER.eos in template.stop_ids
    assert sum(encoded.trained) == len(TOKENIZER.encode(" hello" if name == "instruction" else "hello")) + 1


def test_a_system_message_may_be_merged_into_the_first_question() -> None:
    """If this failed, templates that have no system turn could not be trained with one."""
    messages = [{"role": role, "content": f"the {role}"} for role in ("system", "user", "assistant")]
    template = load("instruction")
    encoded = template.encode(messages)
    assert (
        template.render(messages)
        == "<|endoftext|>[INST] the system\n\nthe user [/INST] the assistant<|endoftext|>"
    )
    assert len(encoded.exchanges) == 1 and any(encoded.trained)


def test_an_inserted_thought_is_not_trained() -> None:
    """If this failed, the model would learn to think nothing, always (trap 6)."""
    source = THINKING.replace("KEEP", "true").replace("SWITCH", "false")
    template = ChatTemplate(source, TOKENIZER, "thinking")
    messages = [{"role": role, "content": "hello k"} for role in ("user", "assistant")] * 2
    encoded = template.encode(messages)
    answer = TOKENIZER.decode([i for i, t in zip(encoded.ids, encoded.trained, strict=True) if t], False)
    assert answer == "hello k<|im_end|>" * 2
    assert "<think>" in template.render(messages)
    prompt = template.prompt(messages[:3])
    assert encoded.ids[: len(prompt)] == prompt and "<think>" not in TOKENIZER.decode(prompt)[-9:]


def test_thinking_is_turned_off_where_the_template_can() -> None:
    """If this failed, answers without thoughts would be taught after a prompt that is never used to ask for them."""
    source = THINKING.replace("KEEP", "true").replace("SWITCH", "enable_thinking is false")
    template = ChatTemplate(source, TOKENIZER, "thinking")
    messages = [{"role": role, "content": "hello"} for role in ("user", "assistant")]
    prompt = template.prompt(messages[:1])
    assert TOKENIZER.decode(prompt, False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert template.encode(messages).ids[: len(prompt)] == prompt


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    """If this failed, the mask of a thinking template would be shifted from the second turn on (trap 6)."""
    source = THINKING.replace("KEEP", "loop.last").replace("SWITCH", "false")
    template = ChatTemplate(source, TOKENIZER, "models/thinking")
    messages = [{"role": role, "content": "hello"} for role in ("user", "assistant")] * 2
    template.encode(messages[:2])
    with pytest.raises(UserError, match="rewrites what stands before or in message") as error:
        template.encode(messages)
    told = str(error.value)
    assert "models/thinking" in told and "<think>" in told and "fix" in told


def test_another_marker_than_the_turn_has_is_refused() -> None:
    """If this failed, the model would be asked with a marker that it never saw (trl#4201)."""
    source = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    with pytest.raises(UserError, match="message 2"):
        ChatTemplate(source, TOKENIZER, "t").encode(
            [{"role": r, "content": "x"} for r in ("user", "assistant")]
        )


@pytest.mark.parametrize("end", ["", "\\n", "<|nothing|>"])
def test_a_template_that_never_ends_a_turn_is_refused(end: str) -> None:
    """If this failed, training would look healthy and the model would never stop."""
    source = "{% for m in messages %}{{ m.role + ':' + m.content + '" + end + "' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    template = ChatTemplate(source, TOKENIZER, "t")
    with pytest.raises(UserError, match="without a token that ends"):
        template.encode([{"role": r, "content": "x"} for r in ("user", "assistant")])
    assert template.stop_ids == TOKENIZER.stop_ids


def test_a_template_that_depends_on_the_length_is_not_trusted() -> None:
    """If this failed, what was learnt from two turns would be believed of the hundredth."""
    source = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% if loop.index > 4 %}"
    source += "{{ 'late' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    template = ChatTemplate(source, TOKENIZER, "t")
    messages = [{"role": r, "content": "x"} for r in ("user", "assistant")] * 4
    template.encode(messages[:4])
    assert template._layouts._from_frames(messages, False) is None
    encoded = template.encode(messages)
    assert TOKENIZER.decode(encoded.ids, False) == template.render(messages)
    assert sum(encoded.trained) == 4 * 2


def test_a_prompt_that_rewrites_the_past_is_noticed_though_the_whole_looks_local() -> None:
    """If this failed, a template whose *prompts* differ would pass because its conversations add up."""
    source = "{% for m in messages %}{{ 'Q' if add_generation_prompt and messages | length > 3 else '' }}"
    source += "{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    messages = [{"role": r, "content": "x"} for r in ("user", "assistant")] * 3
    with pytest.raises(UserError, match="rewrites"):
        ChatTemplate(source, TOKENIZER, "t").encode(messages)


def test_long_conversations_are_not_rendered_for_every_turn() -> None:
    """If this failed, encoding a data set of long conversations would take minutes instead of seconds."""
    template = load("chatml")
    messages = [{"role": r, "content": "hello world"} for r in ("user", "assistant")] * 200
    template.encode(messages)
    calls = []
    template._layouts._render = lambda *given: calls.append(given) or template._render(*given)
    template.encode_all([messages] * 3)
    assert len(calls) == 2 * 3


def test_messages_are_not_templates() -> None:
    """If this failed, Jinja written in a message would be executed."""
    hostile = "{{ 7 * 7 }}{% for x in y %}{{ bos_token }}"
    assert hostile in load("chatml").render([{"role": "user", "content": hostile}])
