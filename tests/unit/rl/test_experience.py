"""Experience: what is trained on is what was said, scored once, in orders that a seed decides alone."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from lmcraft.adapt import entries, lora
from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.generate.engine import Completion
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.models.model import fingerprint
from lmcraft.rl import critic, episodes, experience
from lmcraft.stages import best_of_n, grpo, ppo
from lmcraft.train import loop, optim

EOS = 5
ROLLOUT = {"episodes": 32, "max_new_tokens": 2, "epochs": 2}


def make(world, folder, seed=0, batch_size=8, micro=None, policy=None, rollout=None, **more):
    """PPO in the world: the stage, its policy and its experience."""
    stage = ppo.PPO(ppo.Config(reward="length", rollout=ROLLOUT | (rollout or {}), **more))
    policy = stage.ready(policy or world.policy(), [], None)
    return stage, policy, world.experience(stage, policy, folder, batch_size, seed, micro)


def said(tokens: list[int], reason: str = "stop") -> Completion:
    return Completion("", tokens, [-1.0] * len(tokens), reason)


def test_rows_hold_prompt_and_answer():
    """A failure would mean that an answer is trained one place beside where it was chosen."""
    prompts = episodes.Prompts([[5, 1], [5, 2, 3]], None, ["a", "b"])
    rows = episodes.batch(prompts, [said([4, EOS]), said([2], "length")])
    assert rows.tokens_BT.tolist() == [[5, 1, 4, 0], [5, 2, 3, 0]]
    assert rows.segments_BT.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    assert rows.targets_BT.tolist() == [[IGNORE, 4, EOS, IGNORE], [IGNORE, IGNORE, 2, IGNORE]]
    assert rows.count == 3 and rows.rows == ["a", "b"]


def test_the_end_is_trained_like_every_choice():
    """A failure would mean that a policy never learns when to stop (trap 3)."""
    rows = episodes.batch(episodes.Prompts([[5, 1]] * 2, None, ["a"] * 2), [said([4, EOS]), said([EOS])])
    assert (rows.targets_BT == EOS).sum(dim=1).tolist() == [1, 1]


def test_the_score_is_at_the_last_token():
    """A failure would mean that the wrong token is praised; a row of padding has no last token."""
    targets_BT = torch.tensor([[IGNORE, 4, EOS, IGNORE], [IGNORE, 2, IGNORE, IGNORE], [IGNORE] * 4])
    placed_BT = episodes.at_last(torch.tensor([2.0, 3.0, 4.0]), targets_BT)
    assert placed_BT.tolist() == [[0, 0, 2, 0], [0, 3, 0, 0], [0, 0, 0, 0]]


def test_rewards_by_hand(world, tmp_path):
    """The penalty stands at each token, the score at the last, nothing in the padding, and each counts once."""
    stage, _, _ = make(world, tmp_path, kl={"coef": 0.5}, decay=1.0, discount=1.0, whiten_advantages=False)
    rows = episodes.batch(episodes.Prompts([[5, 1]] * 2, None, ["a"] * 2), [said([4, EOS]), said([EOS])])
    signals = {
        "logprobs": torch.tensor([[9.0, -1, -2, 9], [9, -3, 9, 9]]),
        "reference": torch.tensor([[7.0, -2, -1, 7], [7, -5, 7, 7]]),
        "values": torch.zeros(2, 4),
    }
    rows = episodes.replace(rows, signals=signals)
    returns_BT = stage.credit(rows, torch.tensor([10.0, 20.0]))["returns"]
    # by token: −½·1, −½·(−1) + 10; the other row −½·2 + 20
    assert returns_BT.tolist() == [[0.0, 10.0, 10.5, 0.0], [0.0, 19.0, 0.0, 0.0]]


def test_an_answer_without_an_end_has_the_score_of_that(world, tmp_path):
    """A failure would mean that a policy may go on for ever, or that a null does not mean its reward (trap 37)."""
    answers = [said([4, EOS]), said([1, 1], "length")]
    prompts = episodes.Prompts([[5, 1]] * 2, None, ["a"] * 2)
    for missing, right in ((-1.0, [0.25, -1.0]), (-7.5, [0.25, -7.5]), (None, [0.25, 0.75])):
        _, _, loader = make(world, tmp_path, rollout={"missing_eos": missing})
        loader.reward = lambda given: [0.25, 0.75]
        assert loader.scores(prompts, answers) == right


def test_a_reward_reads_what_the_policy_read(world, tmp_path):
    """A failure would mean that answers of an encoder-decoder are judged without the question."""
    _, _, loader = make(world, tmp_path)
    for sources, right in ((None, [5]), ([[3, 2]], [3, 2])):
        (given,) = loader._given(episodes.Prompts([[5]], sources, ["a"]), [said([1, EOS])])
        assert given.prompt_ids == right and given.ids == [1, EOS] and given.stopped


def test_the_prompts_of_a_round_are_a_fair_sample(tmp_path):
    """A failure would mean that a round asks short questions only and the next one long ones."""
    documents = [Document([1] * (2 + n % 9), None, Where("x", n), [0] + [IGNORE] * (1 + n % 9))
                 for n in range(180)]  # fmt: skip
    prompts = Loader(write(tmp_path / "shard", documents, 8, {}, Counter()), 16, 1, seed=0, pack=False)
    stage = ppo.PPO(ppo.Config(reward="length"))
    policy = stage.ready(
        models.build(decoder.Config(vocab=8, width=8, heads=1, layers=1, context=32)), [], None
    )
    train = loop.Config(batch_size=36, precision="fp32")
    made = experience.Experience(
        stage,
        prompts,
        LanguageModel(policy, SimpleNamespace(eos=0, end_of_turn=0), None),
        None,
        experience.Asked({}, {}),
        train,
    )
    rounds = [[len(ids) for ids in episodes.Prompts.of(made.prompts.next(), 1).ids] for _ in range(5)]
    assert Counter(chain(*rounds)) == dict.fromkeys(range(2, 11), 20)
    assert all(len(set(lengths)) > 6 for lengths in rounds)


def spoken(loader) -> list[list[int]]:
    """The answers of the next round."""
    loader.next()
    return [[t for t in row if t != IGNORE] for row in loader.rows.targets_BT.tolist()]


def test_a_seed_decides_every_answer(world, tmp_path):
    """A failure would mean that no run can be repeated, or that all rounds say the same."""
    first = make(world, tmp_path)[2]
    one, again, other = spoken(first), spoken(make(world, tmp_path)[2]), spoken(make(world, tmp_path, 1)[2])
    assert one == again and one != other
    asked = first.rows.rows
    for _ in range(first.updates_a_round - 1):
        first.next()
    two = spoken(first)  # the next round has the same prompts at some places, and other numbers there
    same = [place for place in range(len(asked)) if asked[place] == first.rows.rows[place]]
    assert len(same) > 3 and any(one[place] != two[place] for place in same)


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_how_many_are_written_at_once_changes_nothing(world, tmp_path, rows):
    """A failure would mean that the size of the machine decides what a policy learns from."""
    assert spoken(make(world, tmp_path, rollout={"rows": rows})[2]) == spoken(make(world, tmp_path)[2])


def test_every_epoch_has_an_order_of_its_own(world, tmp_path):
    """A failure would mean that the same answers always meet in a batch (checklist 11), or that some are left out."""
    _, _, loader = make(world, tmp_path, rollout={"epochs": 3})
    orders = []
    for _ in range(2):  # rounds
        for _ in range(3):  # epochs
            batches = [loader.next().signals["returns"] for _ in range(4)]
            assert [len(batch) for batch in batches] == [8] * 4
            every = Counter(map(tuple, torch.cat(batches).tolist()))
            assert every == Counter(map(tuple, loader.rows.signals["returns"].tolist()))
        orders += [loader._order(loader.rows, loader.updates // 12, epoch).tolist() for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == [*range(32)] for order in orders)


def test_a_checkpoint_has_all_that_is_needed(world, tmp_path):
    """A failure would mean that a run that was killed goes on with other answers, credit or coefficient."""
    stage, _, loader = make(world, tmp_path, kl={"coef": 0.3, "target": 0.01})
    for _ in range(3):
        loader.next()
    assert stage.coefficient != 0.3
    tensors, facts = loader.state()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    other_stage, _, other = make(world, tmp_path, kl={"coef": 0.3, "target": 0.01})
    other.restore(kept, facts)
    assert other_stage.coefficient == stage.coefficient
    for _ in range(12):  # over the end of this round, which the same policy answers
        one, two = loader.next(), other.next()
        assert torch.equal(one.tokens_BT, two.tokens_BT) and one.rows == two.rows
        assert torch.equal(one.targets_BT, two.targets_BT) and torch.equal(one.segments_BT, two.segments_BT)
        assert one.signals.keys() == two.signals.keys()
        assert all(torch.equal(one.signals[name], two.signals[name]) for name in one.signals)


def test_before_the_first_round_there_is_little_to_keep(world, tmp_path):
    """A failure would mean that a run stopped before its first answers cannot go on."""
    tensors, facts = make(world, tmp_path)[2].state()
    _, _, other = make(world, tmp_path)
    other.restore(tensors, facts)
    assert not tensors and spoken(other) == spoken(make(world, tmp_path)[2])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sampling_and_logprobs_have_the_same_temperature(world, tmp_path, temperature):
    """What is drawn must be as frequent as its log-probability says; a failure would mean biased steps (trap 40)."""
    rollout = {"temperature": temperature, "episodes": 4000, "max_new_tokens": 1, "rows": 4000}
    stage, policy, loader = make(world, tmp_path, rollout=rollout, batch_size=4000)
    loader.next()
    rows = loader.rows
    asked, chosen_B = rows.tokens_BT[:, 1], rows.targets_BT[:, 1]
    for prompt in range(4):
        seen = torch.bincount(chosen_B[asked == prompt], minlength=6).double()
        every = episodes.batch(
            episodes.Prompts([[EOS, prompt]] * 6, None, [""] * 6), [said([n]) for n in range(6)]
        )
        with torch.no_grad():
            chances = stage.read(policy, every)["logprobs"][:, 1].double().exp()
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-5)
        expected = chances * seen.sum()
        statistic = float(((seen - expected).square() / expected).sum())
        assert statistic < 25.7  # χ² with 5 degrees of freedom passes that once in 10,000 times
    assert float(loader.facts["kl"]) == pytest.approx(0.0, abs=1e-6)  # the reference has it too


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_noted_logprobs_are_those_that_are_read(world, tmp_path, temperature):
    """With one step a round they are not computed again; a failure would mean that another number stands for them."""
    config = grpo.Config(
        reward="length", group=4, rollout=ROLLOUT | {"epochs": 1, "temperature": temperature}
    )
    stage = grpo.GRPO(config)
    policy = stage.ready(world.policy(), [], None)
    rows = world.experience(stage, policy, tmp_path, 32).next()
    with torch.no_grad():
        read = stage.read(policy, rows)["logprobs"]
    torch.testing.assert_close(rows.signals["logprobs"], read, rtol=0, atol=1e-5)


def test_judges_are_measured_before_anything_is_learned(world, tmp_path):
    """Every start measures on the same answers; a failure would mean that a resumed run has another reward."""

    class Judge:
        def normalise(self, answers) -> None:
            self.heard = [(tuple(answer.prompt_ids), tuple(answer.ids)) for answer in answers]

    heard = []
    for _ in range(2):
        _, _, loader = make(world, tmp_path)
        before, judge = loader.state(), Judge()
        loader.normalise([judge])
        assert loader.state() == before
        heard.append(judge.heard)
        assert spoken(loader) == spoken(make(world, tmp_path)[2])
    assert heard[0] == heard[1] and len(heard[0]) == experience.NORMALISED
    assert {prompt for prompt, _ in heard[0]} == {(EOS, prompt) for prompt in range(4)}


def test_one_step_a_round_has_values_too(world, tmp_path):
    """Values are not noted while sampling; a failure would mean that PPO cannot learn from every answer once."""
    _, _, loader = make(world, tmp_path, batch_size=32, rollout={"epochs": 1})
    assert {"values", "advantages", "returns"} <= loader.next().signals.keys()


def test_several_answers_to_a_prompt(world, tmp_path):
    """A failure would mean that all answers to a prompt are the same, or that prompts are counted for answers."""
    _, _, loader = make(world, tmp_path, group=4)
    answers = spoken(loader)
    asked = [loader.rows.rows[start : start + 4] for start in range(0, 32, 4)]
    assert all(len(set(names)) == 1 for names in asked) and len({names[0] for names in asked}) == 4
    assert any(len({tuple(said) for said in answers[start : start + 4]}) > 1 for start in range(0, 32, 4))
    assert loader.steps(80.0) == 4 * make(world, tmp_path)[2].steps(80.0)
    with pytest.raises(UserError, match="groups of 5"):
        make(world, tmp_path, group=5)


def test_with_shaping_beginnings_are_judged(world, tmp_path):
    """A failure would mean that the potential is that of other answers, or knows the token that is chosen there."""
    _, _, loader = make(world, tmp_path, shaping=True)
    loader.reward = lambda answers: [float(sum(answer.ids)) for answer in answers]
    loader.next()
    rows = loader.rows
    for targets, potential in zip(rows.targets_BT, rows.signals["potential"], strict=True):
        tokens = targets[targets != IGNORE]
        assert potential[targets != IGNORE].tolist() == [float(tokens[:k].sum()) for k in range(len(tokens))]
        assert not potential[targets == IGNORE].any()
    assert "potential" not in make(world, tmp_path)[2].next().signals


def test_uneven_sizes_are_refused(world, tmp_path):
    """A failure would mean that some answers of a round are never trained on."""
    with pytest.raises(UserError, match="cannot be divided"):
        make(world, tmp_path, batch_size=24)
    stage = grpo.GRPO(grpo.Config(reward="length", group=5, rollout=ROLLOUT))
    with pytest.raises(UserError, match="groups of 5"):
        world.experience(stage, stage.ready(world.policy(), [], None), tmp_path, 8)
    best = best_of_n.BestOfN(best_of_n.Config(reward="length", n=8, rollout=ROLLOUT))
    with pytest.raises(UserError, match="cannot be divided"):
        world.experience(best, best.ready(world.policy(), [], None), tmp_path, 3)


def test_steps_count_every_prompt(world, tmp_path):
    """Four prompts, 32 answers a round of 2 × 4 steps; a failure would mean that `epochs` is not what it says."""
    _, _, loader = make(world, tmp_path)
    assert loader.updates_a_round == 8 and loader.steps(8.0) == 8 and loader.steps(80.0) == 80
    assert loader.steps(0.01) == 8  # at least one round


def trained(world, folder, policy=None, steps=8, prepare=None):
    """PPO after a few large steps."""
    stage, policy, loader = make(world, folder, policy=policy)
    if prepare is not None:
        prepare(policy)
    settings = loop.Config(
        steps=steps, lr=0.02, batch_size=8, precision="fp32",
        optim=optim.Config(kind="adamw", schedule="constant", warmup=0.0),
    )  # fmt: skip
    for _ in loop.train(stage, policy, loader, settings, None, lambda _: None):
        pass
    return stage, policy, loader


def reads(loader, policy, rows) -> torch.Tensor:
    """What the reference says of some rows."""
    with loader.reference.of(policy) as model:
        return loader.stage.read(model, rows)["logprobs"]


def test_the_reference_stays_where_it_was(world, tmp_path):
    """A failure would mean that the leash is tied to the policy itself (checklist 17)."""
    _, policy, loader = trained(world, tmp_path)
    assert loader.reference.fingerprint == fingerprint(world.policy().named_parameters())
    assert fingerprint(critic.taken_off(policy).named_parameters()) != loader.reference.fingerprint
    assert loader.facts == {} and loader.rows is not None


def test_beside_an_adapter_the_reference_is_the_base(world, tmp_path):
    """A failure would mean that the adapter, the critic or the base has moved what the policy is compared with."""
    policy = world.policy()
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    stage = ppo.PPO(ppo.Config(reward="length", rollout=ROLLOUT))
    policy = entries.apply(stage.ready(policy, [], None), [lora.Config()], entries.Base("", ""), None)
    _, policy, loader = trained(world, tmp_path, policy=policy)
    rows = world.rows()
    with torch.no_grad():
        expected, moved = world.token_logprobs(world.policy()), world.token_logprobs(policy.eval())
    assert loader.reference.copy is None
    assert torch.equal(reads(loader, policy, rows), expected) and not torch.equal(moved, expected)


@pytest.mark.parametrize("micro", [None, 3])
def test_first_batch_has_a_ratio_of_exactly_one(world, tmp_path, micro):
    """Also where a round has several; anything else would mean that answers are scored otherwise than trained on."""
    stage, policy, loader = make(world, tmp_path, micro=micro, rollout={"temperature": 0.7})
    for part in loader.next().split(micro or 8):
        stage.loss(policy, part)
    told = stage.told()
    assert told["ratio"] == 1.0 and told["approx_kl"] == 0.0 and told["clip_fraction"] == 0.0


def test_dropout_does_not_blur_the_ratio(world, tmp_path):
    """A failure would mean that the ratio is noise: dropout draws other masks every time (trap 41)."""
    torch.manual_seed(3)
    blurred = models.build(world.reference.config.model_copy(update={"dropout": 0.5})).train()
    rows = world.rows()
    assert not torch.equal(*(blurred(rows.tokens_BT, rows.segments_BT) for _ in range(2)))
    stage, policy, loader = make(world, tmp_path, policy=blurred)
    policy.train()
    batch = loader.next()
    stage.loss(policy.train(), batch)
    told = stage.told()
    assert told["ratio"] == 1.0 and loader.facts["kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_divergence_is_a_sum_over_tokens(world, tmp_path):
    """Nats an answer, the mean over answers; a failure would mean a leash that depends on how long answers are."""
    _, policy, loader = make(world, tmp_path)
    with torch.no_grad():
        policy.output.weight += 0.3 * torch.randn(policy.output.weight.shape, generator=torch.manual_seed(0))
    loader.next()
    signals = loader.rows.signals
    right = (signals["logprobs"] - signals["reference"]).sum() / 32
    assert loader.facts["kl"] == pytest.approx(float(right), rel=1e-5) and abs(right) > 0.01


def test_only_what_the_stage_keeps_is_trained(world, tmp_path):
    """A failure would mean that the worse answers are imitated too."""
    stage = best_of_n.BestOfN(best_of_n.Config(reward="length", n=4, rollout=ROLLOUT | {"epochs": 1}))
    policy = stage.ready(world.policy(), [], None)
    loader = world.experience(stage, policy, tmp_path, 8)
    heard = []
    inner = loader.reward
    loader.reward = lambda given: heard.extend(inner(given)) or heard
    loader.next()
    scores = torch.tensor([-1.0 if s is None else s for s in heard]).view(8, 4)
    assert loader.kept == 8 and len(loader.rows.tokens_BT) == 8
    assert stage.noted["best_score"] == pytest.approx(float(scores.amax(dim=1).mean()))
    assert experience.weighted(loader.rows, stage) is loader.rows
