"""A reference that is named: what the policy stays near when that is not what it begins as."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.records import Message, Prompt, Where
from lmcraft.data.tokens import write
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec, weights
from lmcraft.models import model as models
from lmcraft.models.model import fingerprint
from lmcraft.stages import grpo, ppo
from lmcraft.text.tokenizer import Tokenizer
from lmcraft.train import loop, optim
from lmcraft.train.logprobs import token_logprobs

CONTEXT = 16
PROMPTS = [
    Prompt((Message("user", word),), None, Where("words", n)) for n, word in enumerate("is it good".split())
]
SETTINGS = loop.Config(
    steps=4, batch_size=8, lr=1e-2, precision="fp32",
    optim=optim.Config(kind="adamw", warmup=0.0, schedule="constant"),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(["what is it? it is good"], 300)


def net(tokenizer, seed: int, schema=decoder):
    torch.manual_seed(seed)
    return models.build(schema.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=CONTEXT))


@pytest.fixture(scope="module")
def save(tokenizer, tmp_path_factory):
    """A function: model → its folder."""

    def saved(model, beside=tokenizer) -> str:
        folder = tmp_path_factory.mktemp("reference")
        weights.save(model, folder)
        beside.save(folder)
        return str(folder)

    return saved


def begin(stage, tokenizer, folder):
    """Policy and experience."""
    policy = stage.ready(net(tokenizer, 0), PROMPTS, tokenizer)
    documents = stage.documents(PROMPTS, tokenizer, None, CONTEXT, Counter())
    loader = Loader(
        write(folder / "shard", documents, tokenizer.size, {}, Counter()), CONTEXT, 8, 0, pack=False
    )
    return policy, stage.experience(loader, LanguageModel(policy, tokenizer, None), PROMPTS, SETTINGS)


def stage_of(name: str, **more):
    settings = {"reward": "length", "rollout": {"max_new_tokens": 6, "episodes": 16}} | more
    if name == "ppo":
        return ppo.PPO(ppo.Config(**settings))
    return grpo.GRPO(grpo.Config(**settings | {"group": 4}))


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_distance_is_that_to_the_named_model(name, tokenizer, tmp_path, save):
    """A failure would mean that a policy is held back by what it begins as, and not by what was asked for."""
    other = net(tokenizer, 1).eval()
    stage = stage_of(name, reference=save(other))
    policy, loader = begin(stage, tokenizer, tmp_path)
    loader.next()
    rows = loader.rows
    mask_BT = rows.targets_BT != IGNORE
    with torch.no_grad():
        right_BT, own_BT = (
            token_logprobs(model, model(rows.tokens_BT, rows.segments_BT), rows.targets_BT) * mask_BT
            for model in (other, policy.eval())
        )
    torch.testing.assert_close(rows.signals["reference"], right_BT, rtol=0, atol=1e-5)
    away = float((own_BT - right_BT).sum(dim=1).mean())
    assert loader.facts["kl"] == pytest.approx(away, abs=1e-4) and abs(away) > 1e-3


def test_it_stays_where_it_was(tokenizer, tmp_path, save):
    """A failure would mean that the reference is trained, or saved with the policy."""
    other = net(tokenizer, 1)
    stage = stage_of("ppo", reference=save(other))
    policy, loader = begin(stage, tokenizer, tmp_path)
    for _ in loop.train(stage, policy, loader, SETTINGS, None, print):
        pass
    kept = loader.reference.copy
    assert fingerprint(kept.named_parameters()) == fingerprint(other.named_parameters())
    assert not any(p.requires_grad for p in kept.parameters()) and not kept.training
    assert fingerprint(policy.named_parameters()) != fingerprint(net(tokenizer, 0).named_parameters())
    assert not any(kept is module for module in policy.modules())


def test_another_reference_is_another_run(tokenizer, save):
    """A failure would mean that a run goes on with another reference than it began with, and nobody is told."""
    found = []
    for named in ("", save(net(tokenizer, 1)), save(net(tokenizer, 2)), save(net(tokenizer, 1))):
        stage = stage_of("ppo", reference=named)
        stage.ready(net(tokenizer, 0), PROMPTS, tokenizer)
        found.append(stage.base_fingerprint)
    assert len(set(found)) == 3 and found[1] == found[3]


def test_what_cannot_be_a_reference_is_refused(tokenizer, save):
    """A failure would mean log-probabilities of other words, an error far away, or a setting that does nothing."""
    strange = Tokenizer.train(["nothing of the kind, or of that"], 290)
    wrong = [
        (stage_of("ppo", reference=save(net(strange, 1), strange)), "another tokenizer"),
        (stage_of("ppo", reference=save(net(tokenizer, 1, encdec))), "no reference"),
        (stage_of("grpo", reference=save(net(tokenizer, 1)), kl_coef=0.0), "nothing is compared"),
    ]
    for stage, told in wrong:
        with pytest.raises(UserError, match=told):
            stage.ready(net(tokenizer, 0), PROMPTS, tokenizer)
