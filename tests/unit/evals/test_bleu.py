"""BLEU, chrF and exact match are sacreBLEU's over the greedy or searched translations, by length of the source too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.records import Parallel, Text, Where
from lmcraft.evals import bleu
from lmcraft.generate.engine import Completion

sacrebleu = pytest.importorskip("sacrebleu")
SAID = {
    "a small house": "ein kleines Haus",
    "the cat sat on the mat by the door": "die Katze saß auf der Matte an der Tür",
    "the dog sleeps under the old table": "der Hund schläft unter einem alten Tisch",
    "nothing": "",
}
REFERENCES = [
    "ein kleines Haus", "die Katze saß auf der Matte neben der Tür", "der Hund schläft unter dem alten Tisch", "nichts"
]  # fmt: skip


class Phrasebook:
    """Translates what is in `SAID`."""

    model = SimpleNamespace(reads_source=True, config=SimpleNamespace(kind="phrasebook"))

    def __init__(self) -> None:
        self.searched: list = []

    def ids(self, text: str) -> list[int]:
        return list(text.encode())

    def complete(self, prompts, sampling):
        assert sampling.temperature == 0
        texts = [SAID[bytes(ids).decode()] for ids in prompts]
        return [Completion(text, [], [], "stop" if text else "length") for text in texts]

    def search(self, prompts, beams):
        self.searched.append(beams)
        return self.complete(prompts, SimpleNamespace(temperature=0))


RECORDS = [
    Parallel(source, reference, Where("made", line))
    for line, (source, reference) in enumerate(zip(SAID, REFERENCES, strict=True), start=1)
]


def test_the_numbers_are_sacrebleus() -> None:
    """If this failed, a BLEU from here could not be set beside one from elsewhere."""
    found = bleu.run(Phrasebook(), RECORDS, bleu.Config(batch_size=3))
    said = list(SAID.values())
    assert found.metrics["bleu"] == sacrebleu.corpus_bleu(said, [REFERENCES]).score > 30
    assert found.metrics["chrf"] == sacrebleu.corpus_chrf(said, [REFERENCES]).score
    assert (found.metrics["exact"], found.metrics["ended"]) == (0.25, 0.75)
    assert "tok:13a" in found.settings["bleu"] and sacrebleu.__version__ in found.settings["bleu"]
    assert [sample["said"] for sample in found.samples] == said and found.samples[1]["where"] == "made:2"


def test_bleu_by_length_counts_each_source_once() -> None:
    """If this failed, the claim that a model falls with length would rest on the wrong lines."""
    found = bleu.run(Phrasebook(), RECORDS, bleu.Config(lengths=[3, 7])).metrics
    lines = {name: count for name, count in found.items() if name.startswith("lines")}
    assert lines == {"lines, 1 to 3 words": 2, "lines, 4 to 7 words": 1, "lines, 8 words or more": 1}
    longest = sacrebleu.corpus_bleu([SAID[RECORDS[1].source]], [[REFERENCES[1]]]).score
    assert found["bleu, 8 words or more"] == pytest.approx(longest, abs=1e-12)
    with pytest.raises(UserError, match="must rise"):
        bleu.run(Phrasebook(), RECORDS, bleu.Config(lengths=[7, 3]))


def test_beams_are_searched_with_the_settings_asked_for() -> None:
    """If this failed, `beams=4` would be greedy, or search with another penalty than the result says."""
    lm = Phrasebook()
    found = bleu.run(lm, RECORDS, bleu.Config(beams=4, length_penalty=1.0, max_new_tokens=20))
    assert found.metrics == bleu.run(lm, RECORDS, bleu.Config()).metrics and found.settings["beams"] == 4
    assert [(b.beams, b.length_penalty, b.max_new_tokens) for b in lm.searched] == [(4, 1.0, 20)]
    assert found.settings["length_penalty"] == 1.0


def test_what_cannot_be_measured_is_said() -> None:
    """If this failed, a chat model or a file of texts would end in a traceback."""
    with pytest.raises(UserError, match="needs pairs"):
        bleu.run(Phrasebook(), [Text("a", Where("made", 1))], bleu.Config())
    with pytest.raises(UserError, match="nothing to translate"):
        bleu.run(Phrasebook(), [], bleu.Config())
    decoder = SimpleNamespace(
        model=SimpleNamespace(reads_source=False, config=SimpleNamespace(kind="decoder"))
    )
    with pytest.raises(UserError, match="kind decoder has no translations"):
        bleu.run(decoder, RECORDS, bleu.Config())
