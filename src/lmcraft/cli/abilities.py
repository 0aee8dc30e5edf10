"""What a model can be asked for: a verb that asks for something else says so, with the verb that fits.

Proved by tests/cli/test_abilities.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import UserError

if TYPE_CHECKING:
    from ..generate.language_model import LanguageModel


def require_text(lm: LanguageModel, name: str) -> None:
    """Refuse a model that writes no text."""
    if lm.model.generates:
        return
    raise UserError(
        "this model writes no text: it is an encoder", where=name,
        why="it turns a whole text into vectors, labels or filled-in words and has no next word",
        fix=f'lmcraft read {name} "a text", in Python lmcraft.load("{name}").embed(["a text"]); or train it on '
        f"labels: lmcraft train classify base={name} data=FILE",
    )  # fmt: skip


def require_conversation(lm: LanguageModel, name: str) -> None:
    """Refuse a model that cannot hold a conversation: an encoder, a translator, a base model."""
    require_text(lm, name)
    if lm.model.reads_source:
        raise UserError(
            "this model turns a source into a target and holds no conversation", where=name,
            fix=f'lmcraft generate {name} "the source"',
        )  # fmt: skip
    if lm.template is None:
        raise UserError(
            "this is a base model: it continues text and knows no conversation", where=name,
            why="it has no chat template",
            fix=f"lmcraft generate {name}; or tune it to chat first: lmcraft train sft base={name} data=FILE",
        )  # fmt: skip
