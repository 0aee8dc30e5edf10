"""Read: what a model says about a text that it does not continue: masked words, classes, tags, similarity, scores.

Proved by tests/cli/test_read.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from . import settings as s
from .output import emit, table


def command(
    model: Annotated[str, typer.Argument(help="A run, a model directory or a name in the store.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT…", help="One text or several; default: standard input."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Candidates for each masked word.")] = 5,
    as_json: s.AsJson = False,
) -> None:
    """Read texts with an encoder, or with any model that was trained to classify, tag or embed.

    What comes out depends on what the model was trained for. One that guesses words fills each [MASK]:
    `lmcraft read runs/mask-1 "Paris is the [MASK] of France."`. One that classifies names the class of each text, one
    that tags the entities in it. One that embeds says how alike the texts are: `lmcraft read minilm "a cat" "a dog"`;
    with --json come the vectors themselves. A reward model scores each text.
    """
    given = texts or [s.text(None)]
    from .. import api

    lm = api.load(model)
    task = getattr(lm.config, "task", "words")
    result: dict[str, Any] = {"model": model, "task": task}
    shown, text = SHOWN[task](lm, given, count)
    emit(result | {"texts": shown}, as_json, text)


def _words(lm: Any, texts: list[str], count: int) -> tuple[list[dict[str, Any]], str]:
    shown, lines = [], []
    for text in texts:
        masks = lm.fill(text, count)
        shown.append({"text": text, "masks": [[asdict(one) for one in mask] for mask in masks]})
        for number, mask in enumerate(masks, start=1):
            rows = [[one.text, one.probability] for one in mask]
            lines.append(table([f"[MASK] {number}" if len(masks) > 1 else "[MASK]", "probability"], rows))
    return shown, "\n\n".join(lines)


def _classes(lm: Any, texts: list[str], count: int) -> tuple[list[dict[str, Any]], str]:
    found = lm.classify(texts)
    shown = [{"text": text} | asdict(answer) for text, answer in zip(texts, found, strict=True)]
    rows = [[answer.label, answer.probability, text] for text, answer in zip(texts, found, strict=True)]
    return shown, table(["class", "probability", "text"], rows)


def _tags(lm: Any, texts: list[str], count: int) -> tuple[list[dict[str, Any]], str]:
    shown, parts = [], []
    for text, answer in zip(texts, lm.tag(texts), strict=True):
        entities = [
            {"type": e.type, "words": answer.words[e.start : e.stop], "start": e.start, "stop": e.stop}
            for e in answer.entities
        ]
        shown.append({"text": text} | asdict(answer) | {"entities": entities})
        rows = [
            [word, tag, p]
            for word, tag, p in zip(answer.words, answer.tags, answer.probabilities, strict=True)
        ]
        parts.append(table(["word", "tag", "probability"], rows))
    return shown, "\n\n".join(parts)


def _scores(lm: Any, texts: list[str], count: int) -> tuple[list[dict[str, Any]], str]:
    found = lm.rewards(texts)
    shown = [{"text": text, "score": score} for text, score in zip(texts, found, strict=True)]
    return shown, table(["score", "text"], [[one["score"], one["text"]] for one in shown])


def _similarity(lm: Any, texts: list[str], count: int) -> tuple[list[dict[str, Any]], str]:
    import torch.nn.functional as F

    vectors_ND = lm.embed(texts)
    alike_NN = F.normalize(vectors_ND, dim=-1) @ F.normalize(vectors_ND, dim=-1).T
    shown = [
        {"text": text, "vector": vector, "cosine": cosines}
        for text, vector, cosines in zip(texts, vectors_ND.tolist(), alike_NN.tolist(), strict=True)
    ]
    numbers = [str(number) for number in range(1, len(texts) + 1)]
    rows = [[*row, f"{n}  {text}"] for n, text, row in zip(numbers, texts, alike_NN.tolist(), strict=True)]
    return shown, table([*numbers, "cosine with text 1, 2 …"], rows)


SHOWN = {"words": _words, "classes": _classes, "tags": _tags, "embedding": _similarity, "score": _scores}
