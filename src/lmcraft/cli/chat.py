"""Chat: talk to a model that was tuned on conversations.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UserError
from ..core.log import say
from . import abilities
from . import settings as s
from .output import emit

if TYPE_CHECKING:
    from ..generate.language_model import LanguageModel
    from ..generate.sampling import Sampling

Messages = list[dict[str, str]]


def command(
    model: Annotated[str, typer.Argument(help="A run, a model directory or a name in the store.")],
    message: Annotated[
        str | None, typer.Argument(help="Ask this and leave; default: a conversation.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="What the model is told before the conversation.")
    ] = None,
    max_new_tokens: s.MaxNewTokens = 256,
    temperature: s.Temperature = 0.8,
    top_k: s.TopK = None,
    top_p: s.TopP = None,
    min_p: s.MinP = None,
    repetition_penalty: s.Penalty = 1.0,
    stop: s.Stop = None,
    seed: s.Seed = 0,
    adapter: s.Adapter = None,
    strength: s.Strength = None,
    as_json: s.AsJson = False,
) -> None:
    """Talk to a model that was tuned to chat: `lmcraft chat runs/demo/sft`, or `lmcraft chat smollm2` after a pull.

    In the conversation: /new begins again, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer.
    """
    sampling = s.sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, stop=stop or [], seed=seed,
    )  # fmt: skip

    lm = s.load(model, adapter, strength)
    abilities.require_conversation(lm, model)  # refused before anybody types
    start: Messages = [] if system is None else [{"role": "system", "content": system}]
    lm.prompt(
        [*start, {"role": "user", "content": "?"}]
    )  # so is a system message that the template does not take
    if message is None and not as_json:
        _converse(lm, start, sampling)
        return
    text = s.text(message)
    answer = lm.engine.generate([lm.prompt([*start, {"role": "user", "content": text}])], sampling)[0]
    emit({"model": model, "message": text, **asdict(answer)}, as_json, answer.text)


def _converse(lm: LanguageModel, start: Messages, sampling: Sampling) -> None:
    say("type a message and press Enter; /new begins again, /exit leaves")
    messages = list(start)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            say()
            return
        if text in ("/exit", "/quit"):
            return
        if text == "/new":
            messages = list(start)
            say("a new conversation")
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        ids, dropped = fitted(lm, messages, len(start), sampling.max_new_tokens)
        if dropped:
            say(f"the model reads {lm.model.max_length} tokens; the oldest {dropped} messages are forgotten")
            del messages[len(start) : len(start) + dropped]
        try:
            answer = _answer(lm, ids, sampling)
        except UserError as error:  # one message is too long: the conversation goes on without it
            say(f"error: {error}")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})
        sampling = sampling.model_copy(update={"seed": sampling.seed + 1})


def fitted(lm: LanguageModel, messages: Messages, kept: int, wanted: int) -> tuple[list[int], int]:
    """The prompt's ids, and how many messages after the first `kept` had to go to leave room for an answer."""
    room = lm.model.max_length
    dropped = 0
    ids = lm.prompt(messages)
    while (
        room is not None and len(ids) > room - min(wanted, room // 4) and len(messages) - kept - dropped > 2
    ):
        dropped += 2
        ids = lm.prompt([*messages[:kept], *messages[kept + dropped :]])
    return ids, dropped


def _answer(lm: LanguageModel, ids: list[int], sampling: Sampling) -> str:
    shown = ""
    try:
        for piece in lm.stream(ids, sampling):
            shown += piece.text
            print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    print()
    return shown
