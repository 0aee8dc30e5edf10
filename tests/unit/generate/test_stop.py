"""Where an answer ends, and what may be shown of it before it has ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.generate.stop import StopWatch

END = 256


def decode(ids: list[int]) -> str:
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def watch(stop=(), limit=100, stop_ids=(END,)) -> StopWatch:
    return StopWatch(decode, stop_ids, stop, limit)


def play(ids: list[int], **settings) -> tuple[list[str], StopWatch]:
    """What is shown after every token until the answer ends."""
    watched, shown = watch(**settings), []
    for token in ids:
        watched.add(token)
        shown.append(watched.fresh())
        if watched.finish_reason:
            break
    return shown, watched


texts = st.text(alphabet="abcé€😀\n", max_size=30)
stops = st.lists(st.text(alphabet="abcé€😀\n", min_size=1, max_size=5), max_size=3)


@given(texts, stops)
def test_the_end_is_where_a_plain_search_finds_it(text, stop):
    """A failure would mean that an answer goes on behind its stop string, or is cut too early."""
    _, watched = play([*text.encode(), END], stop=stop)
    places = [text.find(one) for one in stop if one in text]
    # the string that is complete first ends the answer; of several complete at once the earliest cuts it
    ends = [text.find(one) + len(one) for one in stop if one in text]
    if not places:
        assert watched.text == text and watched.finish_reason == "stop"
        return
    seen = text[: min(ends)]
    assert watched.text == seen[: min(seen.find(one) for one in stop if one in seen)]
    assert watched.finish_reason == "stop"
    assert not any(one in watched.text for one in stop)


@given(texts, stops, st.integers(1, 40))
def test_what_is_shown_is_never_taken_back(text, stop, limit):
    """A failure would mean that a reader sees part of a stop string, or half a character that then changes."""
    watched, so_far = watch(stop, limit), ""
    shown = []
    for token in [*text.encode(), END]:
        watched.add(token)
        so_far += watched.fresh()
        shown.append(so_far)
        if watched.finish_reason:
            break
    assert so_far == watched.text
    for early in shown:
        assert watched.text.startswith(early)
    for early in shown[:-1]:
        assert "�" not in early


@given(st.lists(st.integers(0, 255), max_size=30), stops)
def test_bytes_that_are_no_text_are_shown_in_the_end(ids, stop):
    """A failure would mean that a bad byte blocks the stream, or that pieces and answer differ."""
    shown, watched = play([*ids, END], stop=stop)
    assert "".join(shown) == watched.text


@given(texts, stops)
def test_no_more_is_held_back_than_needed(text, stop):
    """A failure would mean that streaming stalls until the answer is complete."""
    watched, so_far = watch(stop), ""
    for byte in text.encode():
        watched.add(byte)
        if watched.finish_reason:
            return
        so_far += watched.fresh()
        held = len(watched.text) - len(so_far)
        assert held <= sum(len(one) - 1 for one in stop) + 1


def test_a_stop_string_across_tokens_is_found():
    """A failure would mean that stop strings work only when one token holds them whole."""
    ids = [b"Hello\nUs", b"er", b": more"]
    watched = StopWatch(lambda i: b"".join(ids[k] for k in i).decode(), [], ["\nUser:"], 10)
    shown = []
    for k in range(3):
        watched.add(k)
        shown.append(watched.fresh())
    assert shown == ["Hello", "", ""] and watched.text == "Hello" and watched.finish_reason == "stop"


def test_a_false_alarm_is_shown_later():
    """A failure would mean that text which only began like a stop string is lost."""
    shown, watched = play([*b"a\nUsual", END], stop=["\nUser:"])
    assert "".join(shown) == "a\nUsual" == watched.text
    assert shown[1] == "" and "\nUsu" in shown


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_the_limit_ends_it(limit):
    """A failure would mean that an answer is longer or shorter than asked for."""
    shown, watched = play([*b"abcdefghij"], limit=limit)
    assert watched.finish_reason == "length" and watched.text == "abcdefghij"[:limit] == "".join(shown)


def test_a_stop_token_is_not_part_of_the_text():
    """A failure would mean that users read `<|im_end|>`."""
    _, watched = play([*b"ok", END, *b"more"])
    assert watched.text == "ok" and watched.finish_reason == "stop"


def test_a_stop_token_at_the_limit_is_a_stop():
    """A failure would mean that a finished answer is reported as cut off."""
    _, watched = play([*b"ab", END], limit=3)
    assert watched.finish_reason == "stop"


def test_a_stop_string_at_the_limit_is_a_stop():
    """A failure would mean that the stop string is shown because the limit came with it."""
    shown, watched = play([*b"abST"], limit=4, stop=["ST"])
    assert watched.finish_reason == "stop" and watched.text == "ab" == "".join(shown)


def test_of_two_that_are_complete_at_once_the_earlier_cuts():
    """A failure would mean that the beginning of a stop string is left in the answer."""
    for stop in (["end.", "."], [".", "end."]):
        _, watched = play([*b"the end. more"], stop=stop)
        assert watched.text == "the "


def test_an_empty_stop_string_is_none():
    """A failure would mean that every answer is empty."""
    _, watched = play([*b"abc", END], stop=["", "zz"])
    assert watched.text == "abc"
