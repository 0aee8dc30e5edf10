"""Studies train the product's stages on their own records, and can measure on the way."""

from __future__ import annotations

import torch

from lmcraft.data import synthetic
from lmcraft.data.records import parts
from lmcraft.models import decoder, encdec
from lmcraft.stages import pretrain
from lmcraft.studies import corpus, stream
from lmcraft.text.tokenizer import Tokenizer
from lmcraft.train import loop, optim

CHATS = synthetic.conversations(40, seed=1)
TOKENIZER = Tokenizer.train((text for chat in CHATS for _, text in parts(chat)), 300)
DECODER = decoder.Config(layers=1, width=16, heads=2, context=64)


def test_a_stage_learns_from_records_while_it_is_watched() -> None:
    """If this failed, studies would measure models that were never trained, or that measuring had changed."""
    lesson, training = corpus.Lesson("sft", CHATS, 64), loop.Config(steps=12, batch_size=4, lr=1e-2)
    watched, alone = (corpus.fresh(DECODER, 0, TOKENIZER) for _ in range(2))
    losses = []
    for step in corpus.fit(watched, lesson, training, seed=0, label="watched"):
        losses.append(step.loss)
        if step.number == 3:
            watched.chat([{"role": "user", "content": "hello"}], max_new_tokens=2)
    stream.finish(corpus.fit(alone, lesson, training, seed=0, label="alone"))
    assert losses[-1] < 0.85 * losses[0]
    for one, other in zip(watched.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_steps_follow_from_epochs_and_the_rate_from_the_stage() -> None:
    """If this failed, "each conversation six times" would not be what a study did."""
    lm = corpus.fresh(DECODER, 0, TOKENIZER)
    pairs = synthetic.copies(10, longest=4)
    translator = corpus.fresh(encdec.Config(layers=1, width=16, heads=2), 0, TOKENIZER)
    last = stream.finish(
        corpus.fit(
            translator, corpus.Lesson("translate", pairs, 64), loop.Config(batch_size=2, epochs=3), 0, "copy"
        )
    )
    assert (last.number, last.steps, last.epoch) == (15, 15, 3.0)
    steps = corpus.fit(
        lm, corpus.Lesson("pretrain", synthetic.texts(3), 64), loop.Config(steps=1), 0, "texts"
    )
    assert next(steps).lr == pretrain.LR * optim.factor(optim.Config(), 0, 1)
    steps.close()
