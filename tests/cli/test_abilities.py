"""Asked for what it cannot do, a model says so and names the verb that fits."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lmcraft import api
from lmcraft.cli.main import run

KINDS = {
    "encoder": (False, False, None),
    "translator": (True, True, None),
    "base": (True, False, None),
    "chat": (True, False, "template"),
}


class Spoken(Exception):
    """Raised where a model would begin to speak."""


@pytest.fixture
def asked(monkeypatch, capsys):
    """Runs a verb on a model of a kind; returns its error (None where the model began to speak) and stderr."""

    def load(kind, adapters):
        generates, reads_source, template = KINDS[kind]

        def speak(*_, **__):
            raise Spoken

        model = SimpleNamespace(generates=generates, reads_source=reads_source)
        return SimpleNamespace(model=model, template=template, ids=speak, prompt=speak)

    def ask(verb, kind):
        def main():
            monkeypatch.setattr(api, "load", load)
            return run([verb, kind, "hello", "--json"])

        monkeypatch.setattr(
            "lmcraft.cli.main._report_bug", lambda error, *_: 0 if isinstance(error, Spoken) else 1
        )
        code = main()
        out, err = capsys.readouterr()
        assert code == (2 if out else 0), out + err
        return (json.loads(out)["error"] if out else None), err

    return ask


def test_an_encoder_is_no_writer(asked):
    """A failure would mean that an encoder writes nonsense, or that nobody learns what it is for."""
    for verb in ("generate", "chat"):
        error, _ = asked(verb, "encoder")
        assert "it is an encoder" in error["what"] and error["where"] == "encoder"
        assert ".embed(" in error["fix"] and "train classify base=encoder" in error["fix"]


def test_chat_refuses_what_cannot_converse(asked):
    """A failure would mean that a base model is asked in words it never saw, and the user blames the model."""
    error, _ = asked("chat", "base")
    assert (
        "base model" in error["what"]
        and "lmcraft generate base" in error["fix"]
        and "train sft" in error["fix"]
    )
    error, _ = asked("chat", "translator")
    assert "holds no conversation" in error["what"] and "lmcraft generate translator" in error["fix"]
    assert asked("chat", "chat")[0] is None


def test_generate_takes_every_writer(asked):
    """A failure would mean that raw text cannot be continued, or that a chat model is misused without a word."""
    assert asked("generate", "base") == (None, "")
    assert asked("generate", "translator") == (None, "")
    error, said = asked("generate", "chat")
    assert error is None and "lmcraft chat" in said
