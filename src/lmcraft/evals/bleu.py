"""BLEU, chrF and exact match: how close a model's translations or summaries are to the references.

    BLEU = brevity penalty · exp(mean over n = 1 … 4 of ln p_n),  over the whole corpus (Papineni et al. 2002)

1. sacreBLEU computes it, on text as a person would read it: case kept, tokenized by its own `13a`, exponential
   smoothing. Its signature is among the settings; two BLEUs with different signatures cannot be compared (Post 2018,
   arXiv:1804.08771).
2. chrF (Popović 2015) counts characters, so it also tells something where a line is one long word. `exact` is the
   share of lines that equal their reference.
3. `lengths=[15,30]` also gives the BLEU of the sources of up to 15 words, of 16 to 30, and of more.
4. Translations are greedy or found by beam search, so the same twice; one that does not end within `max_new_tokens`
   counts as it is, and `ended` says how many did end.

Proved by tests/unit/evals/test_bleu.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from sacrebleu.metrics import BLEU, CHRF

from ..core.config import Strict
from ..core.errors import UserError
from ..core.log import Progress
from ..data.records import Parallel
from ..generate.beam import Beams
from ..generate.engine import Completion
from ..generate.language_model import LanguageModel
from ..generate.sampling import Sampling
from .evaluation import Result


class Config(Strict):
    """How to translate, and for which lengths of sources to count apart."""

    kind: Literal["bleu"] = "bleu"
    beams: int = Field(1, gt=0, le=64, description="of beam search; 1 is greedy")
    length_penalty: float = Field(
        0.6, ge=0, le=10, description="of beam search: larger favours long translations"
    )
    max_new_tokens: int = Field(128, gt=0, description="longest translation in tokens")
    batch_size: int = Field(64, gt=0)
    lengths: tuple[int, ...] = Field((), description="words of a source at which a new group begins")
    tokenize: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = Field(
        "13a", description="sacreBLEU's tokenizer; `zh`, `ja-mecab` and `ko-mecab` for targets without spaces"
    )


def run(lm: LanguageModel, records: Sequence[Parallel], config: Config) -> Result:
    """BLEU over all records; one sample a record.

    Raises:
        UserError: the model reads no source, or a record is no pair.
    """
    if not lm.model.reads_source:
        raise UserError(
            f"a model of kind {lm.model.config.kind} has no translations to measure", why="it reads no source",
            fix="measure one that `lmcraft train translate` made",
        )  # fmt: skip
    if not records:
        raise UserError("there is nothing to translate")
    for record in records:
        if not isinstance(record, Parallel):
            raise UserError("BLEU needs pairs of source and target", where=str(record.where))
    said = translations(lm, [record.source for record in records], config)
    texts, references = [each.text for each in said], [record.target for record in records]
    bleu, chrf = metric(config.tokenize), CHRF()
    score = bleu.corpus_score(texts, [references])
    metrics = {
        "bleu": score.score,
        "chrf": chrf.corpus_score(texts, [references]).score,
        "exact": sum(text == reference for text, reference in zip(texts, references, strict=True))
        / len(records),
        "ended": sum(each.finish_reason == "stop" for each in said) / len(records),
        "brevity_penalty": score.bp,
        "words_said": score.sys_len,
        "words_in_references": score.ref_len,
    }
    for name, rows in groups([record.source for record in records], config.lengths).items():
        part = bleu.corpus_score([texts[row] for row in rows], [[references[row] for row in rows]])
        metrics |= {f"bleu, {name}": part.score, f"lines, {name}": len(rows)}
    settings = {
        "records": len(records), "beams": config.beams, "max_new_tokens": config.max_new_tokens,
        **({"length_penalty": config.length_penalty} if config.beams > 1 else {}),
        "bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature()),
    }  # fmt: skip
    samples = [
        {"where": str(record.where), "source": record.source, "reference": record.target, "said": each.text}
        for record, each in zip(records, said, strict=True)
    ]
    return Result("bleu", metrics, settings, samples)


def translations(lm: LanguageModel, sources: Sequence[str], config: Config) -> list[Completion]:
    """The translation of each source, in order; those of similar length are made together."""
    greedy = Sampling(temperature=0.0, max_new_tokens=config.max_new_tokens)
    beams = Beams(
        beams=config.beams, length_penalty=config.length_penalty, max_new_tokens=config.max_new_tokens
    )
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    said: dict[int, Completion] = {}
    with Progress(len(sources), "lines", "translating") as progress:
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            ids = [lm.ids(sources[row]) for row in rows]
            found = lm.complete(ids, greedy) if config.beams == 1 else lm.search(ids, beams)
            said |= dict(zip(rows, found, strict=True))
            progress.update(advance=len(rows))
    return [said[row] for row in range(len(sources))]


def metric(tokenize: str = "13a") -> BLEU:
    """sacreBLEU's corpus BLEU with exponential smoothing; `force` keeps it from warning about tokenized text."""
    return BLEU(tokenize=tokenize, smooth_method="exp", force=True)


def groups(sources: Sequence[str], lengths: Sequence[int]) -> dict[str, list[int]]:
    """Rows by the words of their sources, in groups that end at `lengths`; empty groups are left out.

    Raises:
        UserError: the lengths do not rise.
    """
    edges = list(lengths)
    if edges != sorted(set(edges)) or any(edge < 1 for edge in edges):
        raise UserError(
            "the lengths must rise", where=f"lengths={edges}", fix="for example lengths=[15,30,45]"
        )
    if not edges:
        return {}
    names = [f"{low + 1} to {high} words" for low, high in zip([0, *edges], edges, strict=False)]
    found: dict[str, list[int]] = {name: [] for name in [*names, f"{edges[-1] + 1} words or more"]}
    for row, source in enumerate(sources):
        found[list(found)[bisect_left(edges, len(source.split()))]].append(row)
    return {name: rows for name, rows in found.items() if rows}
