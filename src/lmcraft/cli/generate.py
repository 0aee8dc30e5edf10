"""Generate: continue raw text with a base model; a chat model works too, without its template.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..core.errors import UserError
from ..core.log import say
from . import abilities
from . import settings as s
from .output import emit


def command(
    model: Annotated[str, typer.Argument(help="A run, a model directory or a name in the store.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; default: standard input.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many continuations.")] = 1,
    max_new_tokens: s.MaxNewTokens = 128,
    temperature: s.Temperature = 0.8,
    top_k: s.TopK = None,
    top_p: s.TopP = None,
    min_p: s.MinP = None,
    repetition_penalty: s.Penalty = 1.0,
    stop: s.Stop = None,
    beams: Annotated[
        int | None, typer.Option(min=1, max=64, help="Search for the likeliest answer with so many beams.")
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(min=0, max=10, help="Of beam search: larger favours long answers.")
    ] = 0.6,
    seed: s.Seed = 0,
    adapter: s.Adapter = None,
    strength: s.Strength = None,
    as_json: s.AsJson = False,
) -> None:
    """Continue a text, or translate it: `lmcraft generate runs/book "It was"`.

    The text goes to the model as it is, without a conversation template: what a base model is for. A model that was
    tuned to chat continues it too, but answers better when `lmcraft chat` asks. The model can be pulled first:
    `lmcraft pull gemma3-270m`, then `lmcraft generate gemma3-270m "It was"`. A model that was trained to translate or
    to summarize answers the text instead; `--beams 4` often answers better.
    """
    text = s.text(prompt)
    shared = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "stop": stop or [],
    }  # fmt: skip
    samplings = [s.sampling(**shared, seed=seed + i) for i in range(number)]
    from ..generate.beam import Beams

    lm = s.load(model, adapter, strength)
    abilities.require_text(lm, model)
    if lm.template is not None:
        say(
            "note: this model was tuned to chat; `lmcraft chat` asks it with its template, this continues text"
        )
    ids = lm.ids(text)
    if not ids:
        fix = 'give a text: lmcraft generate MODEL "Once upon a time"'
        raise UserError("there is nothing to continue", fix=fix)
    before = "" if lm.model.reads_source else text
    if beams is not None:
        if number != 1 or stop:
            raise UserError(
                "beam search gives one answer and knows no stop texts", fix="leave -n and --stop out"
            )
        found = Beams(beams=beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens)
        answers = lm.search([ids], found)
    elif number == 1 and not as_json:
        for piece in lm.stream(ids, samplings[0]):
            print(before + piece.text, end="", flush=True)
            before = ""  # printed with the first piece, when nothing can be wrong with the prompt any more
        print()
        return
    else:
        answers = lm.complete([ids] * number, samplings)
    result = {"model": model, "prompt": text, "completions": [asdict(answer) for answer in answers]}
    emit(result, as_json, "\n---\n".join(before + answer.text for answer in answers))
