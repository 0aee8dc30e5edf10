"""What comes into the store from files: items to rate, and ratings, votes and preferences that were made elsewhere.

    items          {"prompt", "answers": [text or {"text", "model"}], "id"?}
                   or rows with one or two answers of a shape that `lmcraft data` knows: completions, preferences, votes
    ratings        what `lmcraft feedback export --to ratings` wrote
    votes          the arena's shape; the judge is the rater
    preferences    {"prompt", "chosen", "rejected"}; one rater, who is named, preferred the chosen one

1. A file with a row that cannot be used adds nothing; all such rows are told with their lines.
2. What was read before is not added again: the key of a vote or preference is made of rater and item, so of two votes
   of one rater on the same pair the first counts.

Proved by tests/feedback/test_exchange.py.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..data import conversations as talk
from ..data import formats, read
from ..data.lines import Row
from ..data.load import Loaded
from ..data.records import Chat, Message, Pair, Problem, Vote, Where
from .judgement import ACTIONS, BOTH_BAD, TIE, Action, Answer, Item, Judgement, Wish

if TYPE_CHECKING:
    from .store import Project, Store

_WINNERS = {"model_a": 0, "model_b": 1, "tie": TIE, "tie (bothbad)": BOTH_BAD}


@dataclass(frozen=True, slots=True)
class Given:
    """One rating from a file."""

    item: Item
    rater: str
    judgement: Judgement
    key: str = ""
    action: Action = "rate"
    simulated: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    created_at: str | None = None


def items(path: Path) -> list[Item]:
    """The items of a file.

    Raises:
        UserError: a row cannot be used (all of them are named), or the file has none.
    """
    return [item for item, _ in _all(path, "answers", _item, _record_item)]


def ratings(path: Path, rater: str | None = None, simulated: bool = False) -> list[Given]:
    """The ratings of a file.

    Args:
        rater: who rated, where the rows do not say.
        simulated: whether that is a program, where the rows do not say.

    Raises:
        UserError: a row cannot be used (all of them are named), or the file has none.
    """

    def foreign(record: Any) -> Given:
        item, choice = _record_item(record)
        name = getattr(record, "judge", None) or rater
        if choice is None:
            raise talk.Wrong("there is no rating in it, only an answer")
        if name is None:
            raise talk.Wrong("it does not say who rated; give --rater NAME")
        return Given(item, name, Judgement(choice=choice), simulated=simulated)

    return _all(path, "judgement", _rating, foreign)


def take(store: Store, project: Project, given: Sequence[Given], source: Mapping[str, Any]) -> dict[str, int]:
    """Adds ratings and the items they are about; those that are there already stay as they are.

    Raises:
        UserError: a rater is known as one of the other kind, or a rating does not fit the guidelines.
    """
    added = project.add([one.item for one in given], source)
    kept = {item.key: item for item in project.snapshot().items.values()}
    known = {rating.key for rating in project.snapshot(history=True).ratings}
    by_rater: dict[str, dict[str, tuple[Given, Wish]]] = {}
    counts: Counter[str] = Counter()
    for one in given:
        item = kept[one.item.key or one.item.fingerprint()]
        key = one.key or _key(project.name, one.rater, item.key)
        counts["present" if key in known or key in by_rater.get(one.rater, {}) else "new"] += 1
        wish = Wish(item, one.judgement, key, one.action, one.created_at)
        _, first = by_rater.setdefault(one.rater, {}).setdefault(key, (one, wish))
        if one.key and first != wish:
            raise UserError("two different ratings of one file have the same key", where=f"key {key}")
    for name, wishes in by_rater.items():
        first = next(iter(wishes.values()))[0]
        rater = store.rater(name, first.simulated, first.settings)
        project.rate_many(rater, [wish for _, wish in wishes.values()])
    return {"items_new": added.new, "ratings_new": counts["new"], "ratings_present": counts["present"],
            "raters": len(by_rater)}  # fmt: skip


def _all(path: Path, own: str, from_row: Any, from_record: Any) -> list[Any]:
    """Every row of a file, by our own column or by a shape of data/formats.py; problems are gathered and told."""
    loaded, made = Loaded(), []
    rows = list(read.rows(path))
    good = [row for row in rows if isinstance(row, Row)]
    shape = None if not good or own in good[0].value else formats.shape(good[:100])
    for row in rows:
        try:
            if isinstance(row, Problem):
                loaded.problems.append(row)
            elif shape is None:
                made.append(from_row(row.value, row.where))
            else:
                record = formats.record(row, shape)
                if isinstance(record, Problem):
                    loaded.problems.append(record)
                else:
                    made.append(from_record(record))
        except (talk.Wrong, ValueError) as wrong:
            loaded.problems.append(Problem(row.where, str(wrong)))
        except KeyError as missing:
            loaded.problems.append(Problem(row.where, f"the column {missing.args[0]!r} is missing"))
    loaded.files[str(path)] = {}
    if loaded.problems or not made:
        loaded.records = []
        loaded.require()
        raise UserError("there are no rows to use", where=str(path))
    return made


def _item(row: Mapping[str, Any], where: Where) -> tuple[Item, None]:
    if not isinstance(row["answers"], list) or not row["answers"]:
        raise talk.Wrong('answers must be a list: of texts, or of {"text", "model"}')
    key = row.get("item", row.get("id", ""))
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise talk.Wrong("id must be a text or a number")
    prompt = talk.prompt(row["prompt"])
    return Item(prompt, tuple(_answer(value) for value in row["answers"]), str(key)), None


def _answer(value: Any) -> Answer:
    if isinstance(value, str):
        return Answer(value)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise talk.Wrong('an answer is a text, or {"text", "model"}')
    model, source = value.get("model") or "", value.get("source") or {}
    if not isinstance(model, str) or not isinstance(source, dict):
        raise talk.Wrong("model must be a text, source an object")
    return Answer(value["text"], model, source)


def _rating(row: Mapping[str, Any], where: Where) -> Given:
    item, _ = _item(row, where)
    action, simulated, settings = row.get("action", "rate"), row["simulated"], row.get("settings", {})
    texts = (row["key"], row["rater"], row.get("created_at", ""))
    if action not in ACTIONS:
        raise talk.Wrong(f"action must be one of {', '.join(ACTIONS)}")
    if not isinstance(simulated, bool) or not isinstance(settings, dict):
        raise talk.Wrong("simulated must be true or false, settings an object")
    if not all(isinstance(text, str) for text in texts) or not isinstance(row["judgement"], dict):
        raise talk.Wrong("key, rater and created_at must be texts, judgement an object")
    key, rater, created_at = texts
    judgement = Judgement.of(row["judgement"])
    return Given(item, rater, judgement, key, action, simulated, settings, created_at or None)


def _record_item(record: Any) -> tuple[Item, int | str | None]:
    """The item of a record with one or two answers, and which answer was preferred in it, if any."""
    match record:
        case Pair(prompt, chosen, rejected):
            return Item(prompt, (Answer(_only(chosen)), Answer(_only(rejected)))), 0
        case Chat(said):
            return Item(said[:-1], (Answer(_only(said[-1:])),)), None
        case Vote():
            sides = (record.conversation_a, record.conversation_b)
            if not all(sides) or sides[0][:-1] != sides[1][:-1]:
                raise talk.Wrong("the two conversations must be there, and differ in their last answer only")
            answers = [
                Answer(_only(side[-1:]), model)
                for side, model in zip(sides, (record.model_a, record.model_b), strict=True)
            ]
            return Item(sides[0][:-1], tuple(answers)), _WINNERS[record.winner]
    raise talk.Wrong("it has no answers; rows have prompt and answers, or prompt, chosen and rejected")


def _only(turns: Sequence[Message]) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise talk.Wrong("an answer must be one message of the assistant")
    return turns[0].content


def _key(*names: str) -> str:
    return f"import-{hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:40]}"
