"""Chat templates: the field's dialect renders as in transformers, and hostile templates get nowhere, cheaply."""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.text import budget
from lmcraft.text.jinja import Template

MESSAGES = [
    {"role": "system", "content": " Be kind. "},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nhi"},
    {"role": "user", "content": "bye"},
]
VARIABLES = {"messages": MESSAGES, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}

# What templates in the field do, each construct once.
FIELD = {
    "loop and index": "{% for m in messages %}{{ loop.index0 }}{{ m['role'] }}{{ loop.last }}{% endfor %}",
    "trim, slice": "{{ messages[0].content | trim }}{{ messages[1:] | length }}{{ messages[::-1][0].role }}",
    "tilde, plus": "{{ bos_token ~ '[' ~ 1 ~ ']' + 'x' }}{{ messages[0]['role'] + '\\n' }}",
    "namespace": "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ ns.found }}",
    "macro": "{% macro turn(role, text='') %}<{{ role }}>{{ text }}{% endmacro %}{{ turn('a') }}{{ turn('b', 'c') }}",
    "call block": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}in{% endcall %}",
    "set block": "{% set x %}a{{ bos_token }}{% endset %}{{ x }}{{ x | length }}",
    "tojson": "{{ messages | tojson }}{{ messages[1] | tojson(indent=2) }}{{ '<é>' | tojson }}",
    "tests": "{{ messages[0].content is string }}{{ tools is defined }}{{ tools is none }}{{ messages is mapping }}",
    "split": "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}{{ 'a-b' .partition('-')[2] }}",
    "methods": "{{ 'x'.startswith('x') }}{{ 'abc'.replace('b', 'd') }}{{ 'A'.lower() }}{{ ','.join(['a', 'b']) }}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages | map(attribute='role') | join(',') }}{{ messages | rejectattr('role', 'eq', 'user') | first }}",
    "dict": "{% for k, v in {'a': 1, 'b': [1, 2]}.items() %}{{ k }}={{ v }};{% endfor %}{{ dict(a=1)['a'] }}",
    "items": "{{ messages[0] | items | list }}{{ messages[0].get('none', 'default') }}{{ messages[0].keys() | list }}",
    "break, continue": "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}"
    "{% endif %}{{ i }}{% endfor %}",
    "arithmetic": "{{ 7 % 2 }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 * 3 - 1 }}{{ -1 }}{{ 'ab' * 2 }}{{ [1] + [2] }}",
    "default": "{{ nothing | default('d') }}{{ (nothing is defined) and nothing.x }}",
    "compare": "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 'a' in ['a'] }}{{ messages[0] == messages[0] }}{{ 1 not in [1] }}",
    "whitespace": "a\n  {% if true %}\n  b\n  {%- endif %}\n  c  {#- x -#}\n  d\n",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
    "cycle": "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.length }}{% endfor %}",
    "loop filter": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "condition": "{{ 'x' if add_generation_prompt else 'y' }}{{ messages and true }}{{ not messages }}",
    "unpack": "{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ (a, b) }}",
    "indent": "{{ 'a\\nb' | indent(2) }}{{ 'a b' | title }}{{ 'x' | upper }}{{ 3.7 | round }}{{ [1, 2] | sum }}",
    "filter block": "{% filter upper %}abc{% endfilter %}",
}


@pytest.mark.parametrize("source", FIELD.values(), ids=FIELD.keys())
def test_the_dialect_is_that_of_the_field(source: str) -> None:
    """If this failed, a public model would be prompted with another text than it was trained on."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    assert Template(source, "t").render(**VARIABLES) == _compile_jinja_template(source).render(**VARIABLES)


def test_raise_exception_is_the_users_mistake() -> None:
    """If this failed, a template's own complaint (roles must alternate) would look like a bug of ours."""
    with pytest.raises(UserError, match="roles must alternate") as error:
        Template("{{ raise_exception('roles must alternate') }}", "some/model").render(messages=MESSAGES)
    assert error.value.where == "some/model"


def test_the_date_can_be_written() -> None:
    """If this failed, Llama 3 templates, which write the date, could not be used."""
    assert re.fullmatch(r"\d\d \w+ \d{4}", Template("{{ strftime_now('%d %b %Y') }}", "t").render())


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ x", "{% for x in %}{% endfor %}", "{{ 1 | nosuchfilter }}", "{{ x is nosuchtest }}", "{{ x.y.z }}",
     "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ [1][9].x }}", "{{ 'a'.index('b') }}", "{% break %}", "{{ nothing() }}",
     "{{ namespace }}{{ messages.nothing.x }}", "{% set loop.x = 1 %}", "{{ dict(1) }}", "{{ '\ud800'.x.y }}"],
)  # fmt: skip
def test_mistakes_in_a_template_name_it(source: str) -> None:
    """If this failed, a broken template would end in a traceback that does not say which file to mend."""
    with pytest.raises(UserError) as error:
        Template(source, "models/x/chat_template.jinja").render(messages=MESSAGES)
    assert error.value.where is not None and error.value.where.startswith("models/x/chat_template.jinja")


def test_a_source_of_more_than_64_kb_is_refused() -> None:
    """If this failed, parsing alone could take as long as an attacker likes."""
    Template("x" * (64 << 10), "t")
    with pytest.raises(UserError, match="bytes long"):
        Template("x" * ((64 << 10) + 1), "t")


INJECTIONS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ messages.append.__self__ }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ joiner.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ lipsum.__globals__['os'].system('touch MARKER') }}",
    "{{ namespace.__init__.__globals__['os'].system('touch MARKER') }}",
    "{{ range.__class__.__base__.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._environment.compile('1') }}",
    "{% macro m() %}{{ caller.__init__.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% for m in messages %}{{ loop._iterator.gi_frame.f_globals }}{% endfor %}",
    "{{ (messages | map('upper')).gi_frame.f_back.f_globals }}",
    "{{ (messages | map('upper')).gi_code }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__globals__}'.format_map({'x': strftime_now}) }}",
    "{{ ('{0.__class__}' | format)('') }}",
    "{{ '%s' | format(messages.__class__) }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ messages | sum(attribute='__class__') }}",
    "{{ messages | groupby('__class__') }}",
    "{{ [''] | map('format', 1) | list }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as p %}",
    "{% from 'os' import system %}{{ system('touch MARKER') }}",
    "{% extends '/etc/passwd' %}",
    "{% block a %}{{ self.a.__globals__ }}{% endblock %}",
    "{% autoescape true %}{{ messages }}{% endautoescape %}",
    "{{ messages.append({'role': 'x'}) }}",
    "{{ messages.clear() }}{{ messages[0].update(role='x') }}{{ messages[0].pop('role') }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__ }}",
    "{{ namespace(__class__=1) }}{{ namespace({'__init__': 1}) }}",
    "{{ ''.encode().fromhex('00') }}",
    "{{ ''.maketrans }}{{ 'a'.translate({97: 'b'}) }}",
    "{{ ().__reduce__() }}{{ (1).__reduce_ex__(2) }}",
    "{{ (1).to_bytes(9, 'big') }}{{ 1.0.hex() }}{{ 1.0.fromhex('0x1') }}",
    "{{ undefined.__init__.__globals__ }}{{ undefined._undefined_exception }}",
    "{{ config }}{{ request }}{{ url_for.__globals__ }}{{ g.pop.__globals__ }}",
    "{{ import('os').system('touch MARKER') }}",
    "{{ __import__('os').system('touch MARKER') }}",
    "{{ eval('1') }}{{ exec('1') }}{{ open('MARKER', 'w') }}",
    "{{ messages | tojson(default=strftime_now) }}",
    "{{ messages | sort(attribute='__class__') }}{{ messages | unique(attribute='__init__') | list }}",
    "{{ strftime_now('%s' * 30) }}{{ strftime_now('%9999999999d') }}",
    "{% trans %}x{% endtrans %}{% do messages.clear() %}{% debug %}",
]

BOMBS = [
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * 'a' }}",
    "{{ [0] * 1000000000 }}",
    "{{ (0,) * 1000000000 }}",
    "{{ 9 ** 999999999 }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.ljust(1000000000) }}{{ 'a'.zfill(1000000000) }}",
    "{{ '\\t'.expandtabs(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ 'a' | indent(1000000000) }}{{ 'a\\na' | indent(1000000000) }}",
    "{{ 'a\\na' | indent('b' * 4000000) | indent('b' * 4000000) | indent('b' * 4000000) }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ messages | tojson(separators=('a' * 4000000, 'b')) }}",
    "{{ 'a' | wordwrap(1, wrapstring='b' * 4000000) }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ lipsum(1000000000) }}",
    "{{ 1 | round(-1000000000) }}",
    "{{ 1.5 | round(1000000000, 'ceil') }}",
    "{{ range(1000000000) | list }}",
    "{{ range(100000) | list * 100 }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}x{% if a %}y{% endif %}{% endfor %}{% endfor %}"
    "{% endset %}",
    "{% for a in range(100000) %}" + "b" * 60000 + "{% endfor %}",
    "{% set x %}{% for a in range(100000) %}" + "b" * 60000 + "{% endfor %}{% endset %}",
    "{% for a in range(100000) %}" + "x{% if 1 %}{% endif %}" * 2500 + "{% endfor %}",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m(n) %}aaaaaaaa{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(26) | length }}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(40) %}{% set ns.s = ns.s.join([ns.s] * 9) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s %}{{ ns.s ~ ns.s }}{% endset %}{% endfor %}",
    "{% set s = 'a' * 4000000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set ns.l = ns.l + [s ~ i] %}{% endfor %}",
    "{% set s = 'a' * 4000000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set ns.l = ns.l + [s[1:]] %}{% endfor %}",
    "{% set s = 'a' * 4000000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
    "{% set ns.l = ns.l + [s.upper()] %}{% endfor %}",
    "{% set s = 'a' * 4000000 %}{{ [s] * 1000 }}",
    "{% set s = 'a' * 4000000 %}{{ [s, s, s, s] | tojson }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60 + "{{ a == b }}",
    "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 60 + "{{ {a: 1} }}",
    "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a | tojson }}",
    "{% set a = dict(x=1) %}" + "{% set a = dict(x=a, y=a) %}" * 60 + "{{ a | string }}",
    "{% set a = namespace(x=1) %}" + "{% set a = namespace(x=a, y=a) %}" * 60 + "{{ a }}",
    "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m([1]) }}",
    "{% set a = [] %}" + "{% set a = [a] %}" * 2000 + "{{ a }}",
    "{% set x = namespace(n=3) %}{% for i in range(100) %}{% set x.n = x.n * x.n %}{% endfor %}{{ x.n }}",
    "{{ ('1' * 4000000) | int(0, 2) }}",
    "{% set s = 'a' * 2000000 %}{{ (s + s).rfind('a' + 'b' + s) }}",
    "{{ ('a' * 4000000).strip('b' * 4000000 + 'a') }}",
    "{{ ('a,' * 2000000).split(',') | length }}",
    "{{ ('a ' * 2000000).split() | length }}",
    "{{ ('a\\n' * 2000000).splitlines() | length }}",
    "{{ ('ab' * 2000000) | list | sort | join }}",
    "{{ ('ab' * 2000000) | unique | list }}",
    "{{ ([[1] * 9999] * 999) | sum(start=[]) }}",
    "{% for i in range(100000) %}{{ 'a' * 4000000 }}{% endfor %}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ " + "not " * 15000 + "1 }}",
    "{{ 1" + "+1" * 30000 + " }}",
    "{{ a" + ".a" * 30000 + " }}",
    "{{ " + "[" * 30000 + "]" * 30000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{% for a in [1, 2, 3] %}" * 1500 + "{% endfor %}" * 1500,
    "{% for a in range(10) %}" * 8 + "x" + "{% endfor %}" * 8,
]

# Bombs must be refused; injections may also come out as harmless text, such as that of an undefined name.
_RUN = """
import json, resource, sys, time
from lmcraft.core.errors import UserError
from lmcraft.text.jinja import Template

Template("{{ 1 }}", "warm").render()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for source in json.load(sys.stdin):
    messages = [{"role": "user", "content": "hello"}]
    began = time.thread_time()
    try:
        outcome = ["text", Template(source, "evil").render(messages=messages)[:2000]]
    except UserError as error:
        outcome = ["refused", error.what]
    outcome += [messages == [{"role": "user", "content": "hello"}], time.thread_time() - began]
    print(json.dumps(outcome), flush=True)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """All payloads, run in one process with a limit on memory and a generous one on time."""
    place = tmp_path_factory.mktemp("payloads")
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(INJECTIONS + BOMBS),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=place,
        preexec_fn=_limited,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (len(lines), (INJECTIONS + BOMBS)[len(lines)][:200], done.stderr[-2000:])
    assert not list(Path(place).iterdir()), "a template wrote a file"
    return {"by source": dict(zip(INJECTIONS + BOMBS, lines, strict=False)), "grown_kb": lines[-1]}


@pytest.mark.parametrize("source", INJECTIONS)
def test_injections_reach_nothing(source: str, outcomes: dict) -> None:
    """If this failed, a chat template from a stranger could run code or read what is not its own."""
    outcome, text, untouched, _ = outcomes["by source"][source]
    assert untouched
    leaks = ("<class", "module", "{'__", "function", "<frame", "/root", "root:", "<code")
    assert outcome == "refused" or not any(leak in text for leak in leaks), text


@pytest.mark.parametrize("source", BOMBS, ids=[f"{n}-{source[:40]}" for n, source in enumerate(BOMBS)])
def test_bombs_are_refused(source: str, outcomes: dict) -> None:
    """If this failed, one request with a template could hold a core or the memory of the server."""
    outcome, text, _, seconds = outcomes["by source"][source]
    assert outcome == "refused", text[:200]
    # CPU time of the one thread, not of the clock: far above the budget of MAX_SECONDS, to tell bounded from endless.
    assert seconds < 6 * budget.MAX_SECONDS


def test_bombs_stay_small(outcomes: dict) -> None:
    """If this failed, refusals would come after the memory was taken."""
    assert outcomes["grown_kb"] < 700 << 10


def test_there_are_enough_payloads() -> None:
    """If this failed, the promise (at least 50 injections tried) would no longer be kept."""
    assert len(set(INJECTIONS)) >= 50 and len(set(BOMBS)) >= 50


def _survives(source: str) -> None:
    try:
        assert isinstance(Template(source, "t").render(**VARIABLES), str)
    except UserError as error:
        assert error.where


@given(st.text(alphabet="{}%-#| ().,[]'abfor ines1~*+=\n", max_size=80))
def test_no_source_brings_down_the_reader(source: str) -> None:
    """If this failed, a damaged template file would end in a traceback instead of a message."""
    _survives(source)


def test_no_damage_brings_down_the_reader() -> None:
    """If this failed, a template with a few wrong characters would end in a traceback."""
    chance = random.Random(0)
    written = "{{ }} {% %} {%- -%} for in if endfor endif set | ~ * + [ ] ( ) ' . messages 9"
    pieces = written.split()
    for _ in range(1500):
        source = "".join(chance.sample(list(FIELD.values()), 2))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(source))
            source = source[:place] + chance.choice(pieces) + source[place + chance.randrange(3) :]
        _survives(source)


def test_long_conversations_are_within_the_budget() -> None:
    """If this failed, the budget would refuse honest work: thousands of messages, a template of usual length."""
    source = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>' ~ message['content'] | trim }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] }}{% endif %}"
        "{% if loop.last %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 100} for i in range(5000)]
    assert Template(source, "t").render(messages=messages, eos_token="</s>").endswith("</s>")
