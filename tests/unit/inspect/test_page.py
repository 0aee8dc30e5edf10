"""The page is complete in itself, escapes whatever tokens hold, shows every part, and stays small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from lmcraft.inspect.look import look
from lmcraft.inspect.page import render, write
from lmcraft.inspect.record import SELF, Map
from lmcraft.inspect.views import tokens_in_budget

ODD = "<script>alert(1)</script> \"'&\x00\x1b \u202e 🙂 {{ 7*7 }} {% x %} </textarea>"
ADDRESSES = {
    "src",
    "href",
    "xlink:href",
    "action",
    "formaction",
    "data",
    "poster",
    "srcset",
    "background",
    "ping",
}


class Parsed(HTMLParser):
    """Tags, addresses and the text of scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.text = ""
        self._open: dict | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ADDRESSES]
        assert not [name for name, _ in attributes if name.startswith("on")]
        self._open = dict(attributes) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts.append((self._open, data))
        else:
            self.text += data


def test_the_page_makes_no_request(language_model, kind: str, settings: dict) -> None:
    """If this failed, looking at a page would tell others about it, or need a network."""
    lm = language_model(kind, **settings)
    page = render("m", look(lm, "the zebra sat", "on the mat" if lm.model.generates else None), lm.tokenizer)
    parsed = Parsed(page)
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(parsed.tags) - {"link"}
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, not an address
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp|WebSocket|sendBeacon", page)
    [script] = [text for attributes, text in parsed.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    for attributes, text in parsed.scripts:
        if "type" in attributes:
            assert all(address.startswith("data:image/png;base64,") for address in json.loads(text))


@pytest.mark.parametrize("kind", ["decoder", "encdec", "rnn"])
def test_odd_tokens_are_text(language_model, kind: str, tmp_path) -> None:
    """If this failed, a text from the web could run a script in the page of whoever inspects it."""
    lm = language_model(kind)
    seen = look(lm, ODD, ODD if kind == "encdec" else None)
    file = write(tmp_path / "page.html", "<script>evil</script>", seen, lm.tokenizer)
    page = file.read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)
    assert "alert" not in "".join(text for _, text in parsed.scripts)
    assert parsed.tags.count("script") == page.count("</script>") == len(parsed.scripts)
    assert (
        "Inside <script>evil</script>" in parsed.text
        and "U+0000" in parsed.text
        and "49" not in parsed.text[:40]
    )


def test_every_part_is_there(language_model, kind: str, settings: dict) -> None:
    """If this failed, a part of the page would be missing for some kind of model, or its numbers be wrong."""
    lm = language_model(kind, **settings)
    seen = look(lm, "the zebra sat", "on the mat" if lm.model.generates else None)
    page = render("m", seen, lm.tokenizer)
    parts = set(re.findall(r'<section id="(\w+)"', page))
    assert parts >= {"tokens", "next", "shapes"}
    assert ("alignment" in parts) == lm.model.reads_source and ("lens" in parts) == (kind != "seq2seq")
    assert f"{seen.target_total.mean:.3f} nats" in page
    text = Parsed(page).text
    for one in seen.predictions:
        if one.loss is not None:
            assert f"{one.loss:.3f}" in text and f"{one.bits:.2f}" in text
    heads = 0 if seen.gradient or kind == "seq2seq" else sum(len(one.weights_HTM) for one in seen.maps)
    assert page.count('<button type="button" title="layer') == heads


def test_a_large_model_stays_small(language_model) -> None:
    """If this failed, the page of a model with hundreds of heads would be too large for a browser or a mail."""
    lm = language_model("decoder")
    seen = look(lm, "the cat")
    piece = seen.target[1]
    torch.manual_seed(0)
    heads_HTM = torch.rand(9, 250, 250).tril()
    maps = [Map(f"blocks.{layer}.attn", SELF, layer, heads_HTM) for layer in range(30)]
    large = replace(
        seen, target=[piece] * 250, read=250, predictions=[seen.predictions[0]] * 250, maps=maps,
        lens=replace(seen.lens, rows=[[seen.lens.rows[0][0]] * 250] * 31),
    )  # fmt: skip
    page = render("m", large, lm.tokenizer)
    most = tokens_in_budget(maps)
    assert 100 < most < 250 and f"the first {most} tokens" in page
    assert 2e6 < len(page) < 10e6
    assert tokens_in_budget([Map("a", SELF, 0, torch.zeros(1, 250, 250))]) == 250
