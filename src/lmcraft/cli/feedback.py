"""Ask people which answers are better: a queue, ratings that are never lost, agreement, preferences to train on.

Proved by tests/cli/test_feedback.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UserError
from . import feedback_files as files
from . import feedback_round
from . import feedback_views as views
from . import settings as s
from .output import emit

if TYPE_CHECKING:
    from ..feedback.store import Store

Name = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.")]
Db = Annotated[
    str | None,
    typer.Option(
        "--db", help="A file or postgresql://…; default: LMCRAFT_FEEDBACK_DB, else runs/feedback.db."
    ),
]
GuidelinesFile = Annotated[
    Path | None, typer.Option("--guidelines", help="YAML with text and criteria, or the text alone.")
]
Criteria = Annotated[
    list[str] | None,
    typer.Option("--criteria", help="coherence or coherence:1-7; may be given again, or with commas."),
]
Who = Annotated[str, typer.Option("--who", help="Whose ratings: people, simulated or all.")]
Enough = Annotated[int | None, typer.Option(min=1, help="Leave out items that so many have rated.")]

app = typer.Typer(help=(__doc__ or "").partition("\n")[0], no_args_is_help=True)


@app.command()
def new(
    project: Name, guidelines: GuidelinesFile = None, criteria: Criteria = None, db: Db = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Begin a project: `lmcraft feedback new helpful --criteria coherence,relevance,safety,ethics`.

    Without criteria raters only say which answer is better.
    """
    from ..feedback import guidelines as words

    asked = words.read(guidelines, _listed(criteria))
    with _store(db) as store:
        store.create(project, asked)
        result = {
            "project": project,
            "database": store.database.name,
            "version": 1,
            **asked.model_dump(mode="json"),
        }
    emit(
        result,
        as_json,
        f"{project} is ready in {result['database']}; next: lmcraft feedback add {project} FILE",
    )


@app.command()
def guidelines(
    project: Name, guidelines: GuidelinesFile = None, criteria: Criteria = None, db: Db = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Show the guidelines of a project, or give it a new version of them; ratings keep theirs."""
    from ..feedback import guidelines as words

    with _store(db) as store:
        found = store.project(project)
        if guidelines is not None or criteria:
            found.set_guidelines(words.read(guidelines, _listed(criteria)))
        version, asked = found.guidelines()
    result = {"project": project, "version": version, **asked.model_dump(mode="json")}
    emit(result, as_json, lambda: views.guidelines(result))


@app.command()
def add(
    project: Name,
    file: Annotated[Path, typer.Argument(help="Rows of prompt and answers, or preferences, or votes.")],
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:
    """Add items to rate: `lmcraft feedback add helpful answers.jsonl`; the same file again adds nothing.

    A row is {"prompt": "…", "answers": ["…", {"text": "…", "model": "runs/a"}]}.
    """
    with _store(db) as store:
        found = store.project(project)
        from ..feedback import reading

        added = found.add(reading.items(file), {"file": str(file)})
    result = {"project": project, "new": added.new, "present": added.present}
    emit(result, as_json, f"{added.new:,} items added, {added.present:,} were there already")


@app.command()
def sample(
    project: Name,
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Runs, directories, names in the store.")],
    prompts: Annotated[Path, typer.Option(help="Rows with prompts, or conversations, whose questions are taken.")],
    number: Annotated[int, typer.Option("--n", min=1, max=26, help="Answers to a prompt, of all models.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many prompts.")] = None,
    max_new_tokens: s.MaxNewTokens = 128,
    temperature: s.Temperature = 0.8,
    seed: s.Seed = 0,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Let models answer prompts, and queue the answers: `lmcraft feedback sample helpful runs/a runs/b --prompts FILE`.

    The answers of a prompt are dealt out to the models in turn. The same command draws the same answers.
    """
    sampling = s.sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with _store(db) as store:
        found = store.project(project)
        from ..data.load import load
        from ..feedback.sample import draw

        asked = load([str(prompts)], "prompt").require().records[:limit]
        drawn = draw(models, asked, number, sampling)
        added = found.add(drawn.items, {"models": models, "prompts": str(prompts), "n": number, "seed": seed})
    result = {"project": project, "new": added.new, "present": added.present, "alike": drawn.alike}
    emit(result, as_json, f"{added.new:,} items added, {added.present:,} were there already; "
         f"{drawn.alike:,} prompts left out, whose answers are all alike")  # fmt: skip


@app.command()
def rate(
    project: Name,
    rater: Annotated[str, typer.Option(help="Who rates; the name under which it is kept.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    enough: Enough = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of answers on the screen.")] = None,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:
    """Work through the queue in the terminal: `lmcraft feedback rate helpful --rater ann`.

    Every judgement is kept before the next question. Stop when you like; the same command goes on.
    """
    from .asking import Session

    with _store(db) as store:
        found = store.project(project)
        out = sys.stderr if as_json else sys.stdout
        session = Session(found, store.rater(rater), out, enough=enough, limit=limit, seed=seed)
        interrupted = False
        try:
            session.run()
        except KeyboardInterrupt:
            interrupted = True
    result = {"project": project, "rater": rater, "interrupted": interrupted, **session.kept}
    counts = ", ".join(f"{count} {views.DONE[name]}" for name, count in session.kept.items())
    emit(result, as_json, f"\n{counts}; the same command goes on")
    if interrupted:
        raise KeyboardInterrupt


@app.command()
def simulate(
    project: Name,
    rater: Annotated[str, typer.Option(help="A rule: vader, length or regex:PATTERN.")],
    name: Annotated[str | None, typer.Option(help="Name of the rater; default: simulated-RULE.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Noise; 0: the better answer always.")] = 0.5,
    position_bias: Annotated[float, typer.Option(help="Logits for the answer shown first.")] = 0.0,
    lazy: Annotated[float, typer.Option(min=0, max=1, help="Probability of judging blindly.")] = 0.0,
    adversarial: Annotated[bool, typer.Option("--adversarial", help="Prefer the worse answer.")] = False,
    tie_band: Annotated[float, typer.Option(min=0, help="Rewards nearer than this are a tie.")] = 0.0,
    seed: s.Seed = 0,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Let a program rate what is open, to try everything out: `lmcraft feedback simulate helpful --rater vader`.

    Its ratings are marked as simulated wherever they are shown, and are used only where you ask for them.
    """
    from ..core import config

    with _store(db) as store:
        found = store.project(project)
        from ..feedback.rules import rule
        from ..feedback.simulated import NOTICE, Manner, Simulated, rate_open

        manner = {"temperature": temperature, "position_bias": position_bias, "lazy": lazy,
                  "adversarial": adversarial, "tie_band": tie_band, "seed": seed}  # fmt: skip
        checked = config.validate(Manner, files.options(manner))
        made, name = rule(rater), name or f"simulated-{rater}"
        kept = store.rater(name, simulated=True, settings={"rule": rater, **checked.model_dump()})
        counts = rate_open(found, kept, Simulated(name, made.reward, checked, made.unit))
    result = {"project": project, "rater": name, "simulated": True, "rule": rater, **manner, **counts}
    emit(
        result,
        as_json,
        f"{name} rated {counts['rated']:,} items; {counts['nothing_to_say']:,} left out\n{NOTICE}",
    )


@app.command()
def agreement(
    project: Name,
    who: Who = "people",
    level: Annotated[str, typer.Option(help="Of the scores: nominal, ordinal or interval.")] = "interval",
    quarrels: Annotated[
        int, typer.Option(min=0, help="How many items to list that raters differ about.")
    ] = 10,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:
    """How far raters agree, who does not, and about which items: `lmcraft feedback agreement helpful`.

    Percent, Cohen's κ (two raters), Fleiss' κ (as many ratings for each), Krippendorff's α; each rater against the
    majority of the others; how much the first place on the screen is liked.
    """
    with _store(db) as store:
        snapshot = store.project(project).snapshot()
        from ..feedback import agreement as measures
        from ..feedback import reliability

        if level not in measures.LEVELS:
            raise UserError(f"there is no level {level!r}", fix=f"say one of: {', '.join(measures.LEVELS)}")
        result = measures.report(snapshot, who, level, quarrels)
        result["reliability"] = reliability.raters(snapshot, who)
        result["position_bias"] = views.estimate(
            reliability.position_bias(reliability.comparisons(snapshot, who))
        )
    emit(result, as_json, lambda: views.agreement(result))


@app.command()
def export(
    project: Name,
    file: Annotated[Path, typer.Argument(help="The .jsonl file to write.")],
    to: Annotated[str, typer.Option(help="preferences, ratings, votes or prompts.")],
    who: Who = "people",
    held_out: Annotated[float, typer.Option(min=0, max=0.99, help="Of preferences: share of prompts held out.")] = 0.0,
    weights: Annotated[list[str] | None, typer.Option("--weight", help="Of a criterion: safety=2; again.")] = None,
    margin: Annotated[str, typer.Option(help="auto, rating (units of the scale), share (of votes) or none.")] = "auto",
    weight_by: Annotated[str, typer.Option(help="What a row weighs: one, agreement or raters.")] = "one",
    min_raters: Annotated[int, typer.Option(min=1, help="Leave out pairs with fewer ratings.")] = 1,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Leave out pairs with less.")] = 0.0,
    exclude: Annotated[list[str] | None, typer.Option(help="A rater who does not count; again.")] = None,
    drop_unreliable: Annotated[
        bool, typer.Option("--drop-unreliable", help="Leave out raters who guess or answer the opposite.")
    ] = False,
    history: Annotated[bool, typer.Option("--history", help="Of ratings: also what was undone.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Write what was said as JSON Lines: `lmcraft feedback export helpful pairs.jsonl --to preferences`.

    Preferences can be trained on; each row names the ratings it was made of. Prompts held out go to a file beside.
    """
    chosen = {
        "who": who, "held_out": held_out, "criteria": files.weights(weights or []), "margin": margin,
        "weight": weight_by, "min_raters": min_raters, "min_agreement": min_agreement, "exclude": exclude or [],
    }  # fmt: skip
    with _store(db) as store:
        snapshot = store.project(project).snapshot(history)
        result = files.write(snapshot, to, file, chosen, drop_unreliable, overwrite)
    emit(result, as_json, lambda: views.exported(result))


@app.command("import")
def import_(
    project: Name,
    file: Annotated[Path, typer.Argument(help="Exported ratings, votes of an arena, or preferences.")],
    rater: Annotated[str | None, typer.Option(help="Who rated, where the rows do not say.")] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="A program did, where rows do not say.")
    ] = False,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:
    """Read ratings that were made elsewhere: `lmcraft feedback import helpful votes.jsonl`; again adds nothing."""
    with _store(db) as store:
        found = store.project(project)
        from ..feedback import reading

        counts = reading.take(store, found, reading.ratings(file, rater, simulated), {"file": str(file)})
    result = {"project": project, **counts}
    emit(result, as_json, ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))


@app.command()
def status(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Default: all projects.")] = None,
    db: Db = None,
    as_json: s.AsJson = False,
) -> None:
    """How far a project has come, who has rated how much, and which items were flagged."""
    with _store(db) as store:
        names = [project] if project is not None else store.projects()
        found = [store.project(name).progress() for name in names]
        result = {"database": store.database.name, "projects": found}
    emit(result, as_json, lambda: views.status(result))


app.command("round")(feedback_round.round_)


def _store(db: str | None) -> Store:
    from ..feedback.opening import open_store

    return open_store(db)


def _listed(criteria: Iterable[str] | None) -> list[str]:
    return [name.strip() for given in criteria or [] for name in given.split(",") if name.strip()]
