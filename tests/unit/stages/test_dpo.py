"""DPO and its kin: the first loss, the known optimum of an enumerable world, references, and what is refused."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest
import torch

from lmcraft.adapt import entries, lora
from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.data.loader import Loader
from lmcraft.data.records import Message, Pair, Rated, Text, Where
from lmcraft.data.tokens import write
from lmcraft.layers.source import Source
from lmcraft.models import decoder, encdec, encoder, rnn
from lmcraft.models import model as models
from lmcraft.stages import dpo
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

LOSSES = ("sigmoid", "ipo", "kto", "orpo", "simpo")
WORDS = "one two three four five six seven eight nine ten".split()


def said(text: str) -> tuple[Message, ...]:
    """An answer."""
    return (Message("assistant", text),)


PAIRS = [
    Pair((Message("user", w),), said(f"{w} {w}"), said(w[::-1]), Where("pairs.jsonl", n))
    for n, w in enumerate(WORDS, start=1)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([" ".join(WORDS)], 300)


def net(tokenizer, kind=decoder, **more):
    torch.manual_seed(0)
    return models.build(kind.Config(vocab=tokenizer.size, layers=1, width=16, context=48, **more))


def ready(tokenizer, records=PAIRS, base=None, **settings):
    """A stage, its model in float64, and everything as one batch."""
    stage = dpo.build(dpo.Config(**settings))
    model = stage.ready(net(tokenizer) if base is None else base, records, tokenizer)
    return stage, model.double(), everything(stage, tokenizer, records)


def everything(stage, tokenizer, records=PAIRS):
    import tempfile
    from pathlib import Path

    made = stage.documents(records, tokenizer, ChatTemplate.load("chatml", tokenizer), 48, Counter())
    place = Path(tempfile.mkdtemp()) / "shard"
    loader = Loader(
        write(place, made, tokenizer.size, {}, Counter()), 48, 4, 0, pack=False, finish=stage.finish
    )
    return loader.batch([*range(len(loader.rows))])


def shaken(model):
    """The model after some training, so to speak."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def plain_logprob(model, tokens, start):
    """log π of one answer, without padding, chunks or masks."""
    with torch.no_grad():
        logs_TV = model.eval().head(model(torch.tensor([tokens])))[0].log_softmax(dim=-1)
    return sum(float(logs_TV[t - 1, tokens[t]]) for t in range(start, len(tokens)))


def plain_rows(batch):
    """ids, source and where the answers begin, for every row."""
    for row in range(len(batch.tokens_BT)):
        start = int((batch.targets_BT[row] != IGNORE).int().argmax())
        ids = batch.tokens_BT[row][batch.segments_BT[row] != 0].tolist()
        source = batch.source.tokens_BS[row][batch.source.segments_BS[row] != 0].tolist()
        yield ids, source, start


@pytest.mark.parametrize("kind", [decoder, rnn])
def test_the_first_loss_is_ln_2(tokenizer, kind):
    """A difference would mean that policy and reference are not the same at the start: dropout, masks, precision."""
    stage, model, batch = ready(tokenizer, base=net(tokenizer, kind, dropout=0.4))
    loss = stage.loss(model.train(), batch)
    assert float(loss.detach()) / batch.count == math.log(2)
    told = stage.told()
    assert told["accuracy"] == 0.5 and told["reward_gap"] == told["chosen_reward"] == 0.0
    assert stage.told() == {}


def test_the_first_loss_beside_lora_is_ln_2(tokenizer):
    """A difference would mean that the base under an adapter is not its reference."""
    base = net(tokenizer, dropout=0.4)
    stage = dpo.build(dpo.Config())
    stage.adapted = True
    model = stage.ready(base, PAIRS, tokenizer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = entries.apply(model, [lora.Config(dropout=0.5)], entries.Base("", ""), None).double()
    batch = everything(stage, tokenizer)
    assert stage.reference.copy is None
    assert float(stage.loss(model.train(), batch).detach()) / batch.count == math.log(2)
    shaken(model)
    before = plain_logprob(net(tokenizer).double(), *next((i, s) for i, _, s in plain_rows(batch)))
    ids, _, start = next(plain_rows(batch))
    stage.loss(model, batch)
    told = stage.told()
    with stage.reference.of(model) as reference:
        assert plain_logprob(reference, ids, start) == pytest.approx(before, abs=1e-9)
    assert told["reward_gap"] != 0


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_their_formulas(tokenizer, loss):
    """A difference would mean that an option trains something else than the paper it is named after."""
    stage, model, batch = ready(tokenizer, loss=loss, beta=0.3, **({"kl_group": 4} if loss == "kto" else {}))
    old, new = net(tokenizer).double(), shaken(model)
    total, own, others = 0.0, [], []
    for ids, source, start in plain_rows(batch):
        c, r = plain_logprob(new, ids, start), plain_logprob(new, source, start)
        x, y = c - plain_logprob(old, ids, start), r - plain_logprob(old, source, start)
        own.append(x)
        others.append(y)
        if loss == "sigmoid":
            total += math.log(1 + math.exp(-0.3 * (x - y)))
        elif loss == "ipo":
            total += (x - y - 1 / 0.6) ** 2
        c, r = c / (len(ids) - start), r / (len(source) - start)
        if loss == "orpo":
            odds = math.log(math.exp(c) / (1 - math.exp(c))) - math.log(math.exp(r) / (1 - math.exp(r)))
            total += -c + 0.3 * math.log(1 + math.exp(-odds))
        elif loss == "simpo":
            total += math.log(1 + math.exp(-(0.3 * (c - r) - 0.5)))
    if loss == "kto":
        assert len(own) == 2 * len(PAIRS)
        for n, x in enumerate(own):
            group = others[n // 4 * 4 : n // 4 * 4 + 4]
            z = max(0.0, sum(group) / len(group))
            sign = 1 if n % 2 == 0 else -1
            total += 1 - 1 / (1 + math.exp(-sign * 0.3 * (x - z)))
    assert float(stage.loss(new, batch).detach()) == pytest.approx(total, rel=1e-9)
    assert all(math.isfinite(number) for number in stage.told().values())


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_add_up(tokenizer, loss):
    """A difference would mean that memory, through the size of micro-batches, changes what is learned."""
    stage, model, batch = ready(tokenizer, loss=loss, **({"kl_group": 4} if loss == "kto" else {}))
    shaken(model)
    whole = stage.loss(model, batch)
    for rows in (1, 3, 4):
        parts = torch.stack([stage.loss(model, part) for part in batch.split(rows)])
        torch.testing.assert_close(parts.sum(), whole, rtol=1e-11, atol=0)
    whole.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_weights_and_margins_count(tokenizer):
    """A failure would mean that columns of the data are read and not used."""
    weighed = [Pair(p.prompt, p.chosen, p.rejected, p.where, margin=0.7, weight=3.0) for p in PAIRS]
    stage, model, batch = ready(tokenizer, weighed)
    assert float(stage.loss(model, batch).detach()) == pytest.approx(
        30 * math.log(1 + math.exp(0.7)), rel=1e-6
    )


def test_the_reference_never_changes(tokenizer):
    """A failure would mean that the policy is pulled to where it went, not to where it came from (checklist 17)."""
    stage, model, batch = ready(tokenizer)
    own = {id(parameter) for parameter in model.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in stage.reference.copy.parameters())

    def digest() -> str:
        stage.loss(model, batch)  # takes the reference to the policy's number format
        numbers = b"".join(t.numpy().tobytes() for t in stage.reference.copy.state_dict().values())
        return hashlib.sha256(numbers).hexdigest()

    before, names = digest(), stage.base_fingerprint
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        stage.loss(model, batch).backward()
        optimizer.step()
    assert digest() == before and stage.base_fingerprint == names
    assert float(stage.loss(model, batch).detach()) < 0.9 * math.log(2) * batch.count


def test_ties_have_no_gradient_at_equal_margins(tokenizer):
    """A failure would mean that answers which raters find equal are driven apart."""
    pair = PAIRS[2]
    back = Pair(pair.prompt, pair.rejected, pair.chosen, pair.where, weight=0.5)
    forth = Pair(pair.prompt, pair.chosen, pair.rejected, pair.where, weight=0.5)
    stage, model, batch = ready(tokenizer, [forth, back])
    stage.loss(model, batch).backward()
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-12 for p in model.parameters())


def fit(stage, model, batch, steps):
    """The lowest population loss that L-BFGS finds."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = stage.loss(model, batch) / batch.count
        loss.backward()
        return loss

    optimizer.step(closure)


def test_a_table_reaches_the_best_policy(world, table):
    """A failure would mean that the loss has another optimum than E r − β·KL: nothing else in DPO could be trusted."""
    stage = dpo.build(dpo.Config(beta=1.0))
    policy = stage.ready(table(6, seed=0), PAIRS, None)
    best = world.best(policy, 1.0)
    assert world.distance(policy, best) > 0.05
    fit(stage, policy, world.both_ways(2), 130)
    assert world.distance(policy, best) < 1e-6
    with torch.no_grad():
        gain = world.logprobs(policy) - world.logprobs(stage.reference.copy)
    left = gain - world.rewards_N.view_as(gain)
    assert (
        float((left - left.mean(dim=1, keepdim=True)).abs().max()) < 0.01
    )  # β·log(π/ref) is r, up to a constant


@pytest.mark.long
def test_a_decoder_comes_near_the_best_policy(world):
    """A failure would mean that the loss is right and our own model cannot follow it."""
    torch.manual_seed(0)
    model = models.build(decoder.Config(vocab=6, layers=2, width=32, heads=4, context=8, tied=False))
    with torch.no_grad():
        model.output.weight.mul_(2.0)
    stage = dpo.build(dpo.Config(beta=1.0))
    policy = stage.ready(model, PAIRS, None)
    best = world.best(policy, 1.0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, 400)
    for step in range(400):
        left, right = (places[step::3] for places in world.pairs(1, seed=step))
        batch = world.batch(torch.cat((left, right)), torch.cat((right, left)))
        optimizer.zero_grad()
        (stage.loss(policy, batch) / batch.count).backward()
        optimizer.step()
        schedule.step()
    assert world.distance(policy, best) < 0.02


def test_what_cannot_be_trained_is_refused(tokenizer):
    """A failure would mean a traceback, or a model trained on what it cannot learn from."""
    for kind, words in ((encdec, "reads a source"), (encoder, "sees the words")):
        with pytest.raises(UserError) as refused:
            dpo.build(dpo.Config()).ready(net(tokenizer, kind), PAIRS, tokenizer)
        assert words in str(refused.value.why)
    rated = [Rated(p.prompt, p.chosen, True, p.where) for p in PAIRS]
    with pytest.raises(UserError, match="kto"):
        dpo.build(dpo.Config()).ready(net(tokenizer), rated, tokenizer)
    with pytest.raises(UserError, match="rated answers or preferences"):
        dpo.build(dpo.Config(loss="kto")).ready(net(tokenizer), [Text("a")], tokenizer)
    with pytest.raises(ValueError, match="smoothing belongs"):
        dpo.Config(loss="ipo", smoothing=0.1)


def test_kto_reads_rated_answers(tokenizer):
    """A failure would mean that good and bad answers are taken for one another, or compared with their own prompt."""
    rated = [Rated(p.prompt, p.chosen, n % 3 > 0, p.where) for n, p in enumerate(PAIRS)]
    stage, model, batch = ready(tokenizer, rated, loss="kto", bad_weight=2.0)
    good = batch.targets_BT.amax(dim=1)
    assert good.tolist() == [int(r.label) for r in rated] or sorted(good.tolist()) == sorted(
        int(r.label) for r in rated
    )
    for ids, source, start in plain_rows(batch):
        assert ids[:start] == source[:start] and ids != source
    assert float(stage.loss(model, batch).detach()) == pytest.approx(0.5 * (6 + 2.0 * 4))


def test_answers_of_several_turns_are_left_out(tokenizer):
    """A failure would mean that the user's words are trained as if the policy had said them."""
    turns = (*said("one"), Message("user", "two"), *said("three"))
    stage, counts = dpo.build(dpo.Config()), Counter()
    template = ChatTemplate.load("chatml", tokenizer)
    rows = [Pair(PAIRS[0].prompt, turns, said("four")), PAIRS[1]]
    assert len([*stage.documents(rows, tokenizer, template, 48, counts)]) == 1
    assert counts == {"left out, an answer of several turns": 1}


def test_padding_changes_nothing(tokenizer):
    """A failure would mean that a loss depends on how long the other rows are."""
    stage, model, batch = ready(tokenizer)
    shaken(model)
    wider = torch.nn.functional.pad
    padded = Batch(
        wider(batch.tokens_BT, (0, 5), value=3), wider(batch.targets_BT, (0, 5), value=IGNORE),
        wider(batch.segments_BT, (0, 5)), batch.rows,
        Source(wider(batch.source.tokens_BS, (0, 7), value=2), wider(batch.source.segments_BS, (0, 7))),
        1, batch.signals,
    )  # fmt: skip
    torch.testing.assert_close(stage.loss(model, padded), stage.loss(model, batch), rtol=1e-12, atol=0)
