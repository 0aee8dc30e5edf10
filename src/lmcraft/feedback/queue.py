"""The queue: which item a rater sees next.

1. The item with the fewest ratings comes first, so that all are rated once before any is rated twice. Simulated raters
   are counted apart from people.
2. Among equals the order is a hash of rater and item: always the same for one rater, another for the next. Raters who
   work at the same time meet in different places, and no item is lent to anybody, so nobody waits and nothing
   is lost when somebody leaves.

Proved by tests/feedback/test_queue.py.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from . import tables as t
from .ratinglog import HOLDS


def open_items(
    connection: sa.Connection, project_id: int, rater_id: int, enough: int | None = None
) -> list[str]:
    """Keys of the items that a rater has still to judge, in order.

    Args:
        enough: leave out items that have so many ratings already.
    """
    me = sa.select(t.raters.c.name, t.raters.c.simulated).where(t.raters.c.id == rater_id)
    name, simulated = connection.execute(me).one()
    alike = (
        sa.select(t.ratings.c.item_id, sa.func.count().label("ratings"))
        .join(t.raters, t.raters.c.id == t.ratings.c.rater_id)
        .where(HOLDS, t.ratings.c.action == "rate", t.raters.c.simulated == simulated)
        .group_by(t.ratings.c.item_id)
        .subquery()
    )
    mine = sa.select(t.ratings.c.item_id).where(t.ratings.c.rater_id == rater_id, HOLDS)
    ratings = sa.func.coalesce(alike.c.ratings, 0)
    query = (
        sa.select(t.items.c.key, ratings.label("ratings"))
        .outerjoin(alike, alike.c.item_id == t.items.c.id)
        .where(t.items.c.project_id == project_id, t.items.c.id.not_in(mine))
    )
    if enough is not None:
        query = query.where(ratings < enough)
    rows = connection.execute(query).all()
    return [key for key, _ in sorted(rows, key=lambda row: (row[1], _place(name, row[0])))]


def _place(rater: str, item: str) -> str:
    return hashlib.sha256(f"{rater}\0{item}".encode()).hexdigest()
