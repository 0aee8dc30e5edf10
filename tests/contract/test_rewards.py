"""What every reward keeps: one finite number for each answer, in order, with its weight."""

from __future__ import annotations

import http.server
import json
import math
import threading

import pytest
import torch

from lmcraft.core import find
from lmcraft.generate import scoring
from lmcraft.models import decoder, heads, weights
from lmcraft.models import model as models
from lmcraft.rewards import reward
from lmcraft.rewards.reward import Answer, Weighted

NAMES = [name for name in find.names("rewards") if name != "reward"]
TEXTS = ["so good!", "42", "", "a bad day\n", "é 日本 \x00", "good " * 30]


class Judge(http.server.BaseHTTPRequestHandler):
    """Gives each answer its length."""

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["answers"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"scores": [len(one["answer"]) for one in given]}).encode())

    def log_message(self, *_) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def settings(tokenizer, tmp_path_factory):
    """What the rewards need that have no defaults."""
    torch.manual_seed(0)
    base = models.build(decoder.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=24))
    model = heads.around(base, task="score", pooling="last")
    scoring.normalise(model, [[5, 6], [7, 8, 9], [10]])
    folder = tmp_path_factory.mktemp("judge")
    weights.save(model, folder)
    tokenizer.save(folder)
    server = http.server.HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield {
        "pattern": {"pattern": r"\w+"},
        "remote": {"url": f"http://127.0.0.1:{server.server_address[1]}"},
        "run": {"path": str(folder)},
    }
    server.shutdown()
    server.server_close()


def answers(tokenizer) -> list[Answer]:
    return [
        Answer([5, 6], [*tokenizer.encode_plain(text), tokenizer.eos], text, "q", n % 2 == 0, expected="42")
        for n, text in enumerate(TEXTS)
    ]


def given(name: str, settings, tokenizer, weight: float = 1.0):
    config = reward.entry({"kind": name, "weight": weight, **settings.get(name, {})})
    assert isinstance(config, Weighted)
    return reward.together([config], tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_one_number_for_each_answer(name, settings, tokenizer):
    """A failure would mean that answers are paid for what others said, or with something that is no number."""
    pay, said = given(name, settings, tokenizer), answers(tokenizer)
    found = pay(said)
    assert len(found) == len(said) and all(type(score) is float and math.isfinite(score) for score in found)
    assert len(set(found)) > 1, "the answers do not tell this reward from a constant"
    assert pay(said[::-1]) == pytest.approx(found[::-1], abs=1e-5)
    assert [pay([one])[0] for one in said] == pytest.approx(found, abs=1e-5)
    assert pay([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_its_weight_is_applied(name, settings, tokenizer):
    """A failure would mean that a weight in a recipe is not heeded."""
    said = answers(tokenizer)
    plain = given(name, settings, tokenizer)(said)
    for weight in (-2.0, 0.0, 0.5):
        weighted = given(name, settings, tokenizer, weight)(said)
        assert weighted == pytest.approx([weight * score for score in plain], abs=1e-5)


def test_no_reward_is_left_out(settings, tokenizer):
    """A failure would mean that a new reward is in no test of this file."""
    for name in NAMES:
        assert hasattr(find.module("rewards", name), "build"), name
