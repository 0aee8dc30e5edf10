"""Recognise what shape rows have, by their column names, and turn each row into a Record.

The shapes, with the record they become; other columns are ignored:

    text            {"text"}                                                          Text
    turns           {"text"} that begins with a line <user> or <system>               Chat
    messages        {"messages": [{"role", "content"}]}                               Chat
    sharegpt        {"conversations": [{"from", "value"}], "system"?}                 Chat
    alpaca          {"instruction", "input"?, "output", "system"?, "history"?}        Chat
    completion      {"prompt", "completion"}: strings or messages                     Chat
    preference      {"prompt"?, "chosen", "rejected", "margin"?, "weight"?}           Pair
    unpaired        {"prompt", "completion", "label": true/false}                     Rated
    prompt          {"prompt", "answer"?}                                             Prompt
    classification  {"text", "label"}                                                 Labeled
    ner             {"tokens", "tags"}                                                Tagged
    parallel        {"source", "target"}                                              Parallel
    arena           {"model_a", "model_b", "winner", "conversation_a"?, …}            Vote

1. The first shape of `_SHAPES` whose columns a row has is the row's shape; the order goes from special to general.
2. A string prompt is one user message, a string answer one assistant message.
3. Without a prompt column, the prompt of a preference is what both message lists, or both transcripts in the style of
   Anthropic's HH data, begin with. Equal answers teach nothing and are refused.
4. Answers of a preference are strings or messages; `margin` and `weight` are numbers, or empty for none. `agreement` is
   read where `raters` is above 1, as lmcraft.feedback writes them.
5. White space inside a text is kept exactly.

Proved by tests/unit/data/test_formats.py.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import UserError
from . import conversations as talk
from .conversations import Wrong, string
from .jsonrows import named
from .lines import Row
from .records import (
    Chat,
    Labeled,
    Message,
    Pair,
    Parallel,
    Problem,
    Prompt,
    Rated,
    Record,
    Tagged,
    Text,
    Vote,
    Where,
)

_LONGEST_REASON = 400  # characters of a message, whatever the row holds
_COMPLETIONS = ("completion", "response")
_VERDICTS = ("label", "kto_tag")
_TAGS = ("tags", "ner_tags", "pos_tags")
# The numbers 1 and 0 are found too: Python counts them equal to True and False.
_TRUTH = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
_WINNERS = {"model_a", "model_b", "tie", "tie (bothbad)"}


def shape(rows: Sequence[Row]) -> str:
    """The shape most of the rows have (of equals, the one met first).

    Raises:
        UserError: no row has the columns of a known shape.
    """
    found = Counter(name for row in rows if (name := _shape(row.value)))
    if found:
        return found.most_common(1)[0][0]
    columns = textwrap.shorten(", ".join(rows[0].value), _LONGEST_REASON, placeholder=" …") or "none"
    raise UserError(
        "cannot tell what the rows are for",
        where=str(rows[0].where),
        why=f"the columns are: {columns}",
        fix="rename columns to one of: " + "; ".join(sorted(_EXAMPLES.values())),
    )


def record(row: Row, shape: str) -> Record | Problem:
    """The row as the record of its shape, or the Problem that keeps it from being one."""
    try:
        made = _MAKERS[shape](row.value, row.where)
    except Wrong as wrong:
        return Problem(row.where, textwrap.shorten(str(wrong), _LONGEST_REASON, placeholder=" …"))
    except KeyError as missing:
        return Problem(row.where, f"the column {missing.args[0]!r} is missing ({shape} rows)")
    return made


def _text(row: dict[str, Any], where: Where) -> Text:
    return Text(string(row["text"], "text"), where)


def _turns(row: dict[str, Any], where: Where) -> Chat:
    if not talk.is_turns(row["text"]):
        raise Wrong("the text does not begin with a line <user> or <system>, as the others do")
    return Chat(talk.answered(talk.turns(row["text"])), where)


def _messages(row: dict[str, Any], where: Where) -> Chat:
    return Chat(talk.answered(talk.messages(row["messages"])), where)


def _sharegpt(row: dict[str, Any], where: Where) -> Chat:
    said = talk.messages(row["conversations"], "conversations")
    return Chat(talk.answered(_system(row) + said), where)


def _system(row: dict[str, Any]) -> tuple[Message, ...]:
    value = row.get("system") or ""
    if not isinstance(value, str):
        raise Wrong(f"system must be a string, found {named(value)}")
    return (Message("system", value),) if value.strip() else ()


def _alpaca(row: dict[str, Any], where: Where) -> Chat:
    said = [*_system(row), *_history(row.get("history")), _instruction(row)]
    said.append(Message("assistant", string(row["output"], "output")))
    return Chat(talk.answered(tuple(said)), where)


def _instruction(row: dict[str, Any]) -> Message:
    instruction, given = row["instruction"], row.get("input") or ""
    if not isinstance(given, str):
        raise Wrong(f"input must be a string, found {named(given)}")
    question = string(instruction, "instruction")
    return Message("user", f"{question}\n{given}" if given.strip() else question)


def _history(value: Any) -> list[Message]:
    """Earlier exchanges of an Alpaca row: [[question, answer], …]."""
    said: list[Message] = []
    if value in (None, ""):
        return said
    if not isinstance(value, list):
        raise Wrong(f"history must be a list of [question, answer], found {named(value)}")
    for exchange in value:
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Wrong("history must be a list of [question, answer]")
        said.append(Message("user", string(exchange[0], "a question of history")))
        said.append(Message("assistant", string(exchange[1], "an answer of history")))
    return said


def _column(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in row), names[0])


def _completion(row: dict[str, Any], where: Where) -> Chat:
    asked = _system(row) + talk.prompt(row["prompt"])
    name = _column(row, _COMPLETIONS)
    return Chat(talk.answered(asked + talk.answer(row[name], name, asked)), where)


def _preference(row: dict[str, Any], where: Where) -> Pair:
    if "prompt" in row:
        asked = _system(row) + talk.prompt(row["prompt"])
    elif "conversations" in row:
        asked = talk.asked(_system(row) + talk.messages(row["conversations"], "conversations"))
    elif "instruction" in row:
        asked = talk.asked((*_system(row), *_history(row.get("history")), _instruction(row)))
    else:
        asked = _common(row)
        chosen, rejected = (_implicit(row[name], name)[len(asked) :] for name in ("chosen", "rejected"))
        return _pair(row, asked, chosen, rejected, where)
    chosen, rejected = (talk.answer(row[name], name, asked) for name in ("chosen", "rejected"))
    return _pair(row, asked, chosen, rejected, where)


def _pair(row: dict[str, Any], asked: Any, chosen: Any, rejected: Any, where: Where) -> Pair:
    if chosen == rejected:
        raise Wrong("chosen and rejected are equal, so there is no preference")
    for name, said in (("chosen", chosen), ("rejected", rejected)):
        if not said or said[0].role != "assistant":
            raise Wrong(f"{name} must begin with a message of the assistant")
    margin, weight = _number(row, "margin"), _number(row, "weight")
    if weight is not None and weight <= 0:
        raise Wrong(f"weight must be above 0, found {weight:g}")
    return Pair(asked, chosen, rejected, where, margin, 1.0 if weight is None else weight, _agreement(row))


def _agreement(row: dict[str, Any]) -> float | None:
    """What `lmcraft feedback export` notes of several raters; columns of these names may mean anything elsewhere."""
    raters, share = row.get("raters"), row.get("agreement")
    counted = isinstance(raters, int) and raters > 1 and isinstance(share, (int, float))
    return float(share) if counted and 0 <= share <= 1 else None


def _number(row: dict[str, Any], column: str) -> float | None:
    """A finite number, which a CSV cell may write in letters; None where the row has none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Wrong(f"{column} must be a number, found {named(value)}")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Wrong(f"{column} must be a number, found {value!r}")
    return found


def _implicit(value: Any, column: str) -> tuple[Message, ...]:
    said = talk.transcript(value) if isinstance(value, str) else talk.messages(value, column)
    return talk.answered(said)


def _common(row: dict[str, Any]) -> tuple[Message, ...]:
    """What both answers of a preference without a prompt begin with."""
    chosen, rejected = _implicit(row["chosen"], "chosen"), _implicit(row["rejected"], "rejected")
    length = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        length += 1
    return talk.asked(chosen[:length])


def _unpaired(row: dict[str, Any], where: Where) -> Rated:
    asked = _system(row) + talk.prompt(row["prompt"])
    name, verdict = _column(row, _COMPLETIONS), _column(row, _VERDICTS)
    label = row[verdict].lower() if isinstance(row[verdict], str) else row[verdict]
    if isinstance(label, (list, dict)) or label not in _TRUTH:
        raise Wrong(f"{verdict} must be true or false, found {row[verdict]!r}")
    return Rated(asked, talk.answer(row[name], name, asked), _TRUTH[label], where)


def _prompt(row: dict[str, Any], where: Where) -> Prompt:
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, (str, int, float)):
        raise Wrong(f"answer must be a string or a number, found {named(answer)}")
    asked = _system(row) + talk.prompt(row["prompt"])
    return Prompt(asked, None if answer is None else str(answer), where)


def _classification(row: dict[str, Any], where: Where) -> Labeled:
    label = row["label"]
    if isinstance(label, bool):
        label = str(label).lower()
    if isinstance(label, int):
        label = str(label)
    return Labeled(string(row["text"], "text"), string(label, "label"), where)


def _ner(row: dict[str, Any], where: Where) -> Tagged:
    name = _column(row, _TAGS)
    tokens, tags = _words(row["tokens"], "tokens"), _words(row[name], name)
    if len(tokens) != len(tags):
        raise Wrong(f"{len(tokens)} tokens but {len(tags)} {name}")
    return Tagged(tokens, tags, where)


def _words(value: Any, column: str) -> tuple[str, ...]:
    """A list of words or tag numbers; in a CSV cell, words with spaces between."""
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, list):
        raise Wrong(f"{column} must be a list, found {named(value)}")
    if not items:
        raise Wrong(f"{column} is empty")
    for item in items:
        if not isinstance(item, (str, int)) or isinstance(item, bool) or item == "":
            raise Wrong(f"{column} must hold words, found {item!r}")
    return tuple(str(item) for item in items)


def _parallel(row: dict[str, Any], where: Where) -> Parallel:
    return Parallel(string(row["source"], "source"), string(row["target"], "target"), where)


def _summary(row: dict[str, Any], where: Where) -> Parallel:
    return Parallel(string(row["document"], "document"), string(row["summary"], "summary"), where)


def _arena(row: dict[str, Any], where: Where) -> Vote:
    names = [string(row[column], column) for column in ("model_a", "model_b")]
    winner = string(row["winner"], "winner").strip().lower()
    winner = "tie (bothbad)" if winner in ("bothbad", "both_bad") else winner
    if winner not in _WINNERS:
        raise Wrong(f"winner is {row['winner']!r}; known are {', '.join(sorted(_WINNERS))}")
    sides = [
        talk.answered(talk.messages(row[column], column)) if row.get(column) else ()
        for column in ("conversation_a", "conversation_b")
    ]
    judge = row.get("judge")
    return Vote(*names, winner, *sides, None if judge is None else str(judge), where)


_MAKERS: dict[str, Callable[[dict[str, Any], Where], Record]] = {
    "arena": _arena,
    "preference": _preference,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "unpaired": _unpaired,
    "completion": _completion,
    "ner": _ner,
    "parallel": _parallel,
    "summary": _summary,
    "classification": _classification,
    "prompt": _prompt,
    "turns": _turns,
    "text": _text,
}

SHAPES = tuple(_MAKERS)

_EXAMPLES = {
    "text": '{"text"}',
    "messages": '{"messages"}',
    "sharegpt": '{"conversations"}',
    "alpaca": '{"instruction", "input", "output"}',
    "completion": '{"prompt", "completion"}',
    "preference": '{"prompt", "chosen", "rejected"}',
    "unpaired": '{"prompt", "completion", "label"}',
    "classification": '{"text", "label"}',
    "ner": '{"tokens", "tags"}',
    "parallel": '{"source", "target"}',
    "arena": '{"model_a", "model_b", "winner"}',
}


def _shape(row: dict[str, Any]) -> str | None:
    """The shape of one row by its columns, from special to general."""
    has = row.keys().__contains__
    answered = any(map(has, _COMPLETIONS))
    rules = {
        "arena": has("model_a") and has("model_b") and has("winner"),
        "preference": has("chosen") and has("rejected"),
        "messages": has("messages"),
        "sharegpt": has("conversations"),
        "alpaca": has("instruction") and has("output"),
        "unpaired": has("prompt") and answered and any(map(has, _VERDICTS)),
        "completion": has("prompt") and answered,
        "ner": has("tokens") and any(map(has, _TAGS)),
        "parallel": has("source") and has("target"),
        "summary": has("document") and has("summary"),
        "classification": has("text") and has("label"),
        "prompt": has("prompt"),
        "turns": has("text") and talk.is_turns(row["text"]),
        "text": has("text"),
    }
    return next((name for name, fits in rules.items() if fits), None)
