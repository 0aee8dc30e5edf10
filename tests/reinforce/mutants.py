"""Mistakes that a training run would survive, each with the test that does not; test_mutants.py plants them.

`python tests/reinforce/mutants.py` prints the table of docs/rlhf-checks.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CREDIT, EXPERIENCE = "lmcraft.stages.ppo:PPO.credit", "lmcraft.rl.experience:Experience"
GAE, WHITEN = "lmcraft.rl.advantages:gae", "lmcraft.rl.advantages:whiten"
SURROGATE, VALUES = "lmcraft.rl.objective:surrogate", "lmcraft.rl.objective:value_loss"
GRADIENT = "tests/reinforce/test_exact_gradient.py::test_ppo_has_the_gradient_of_the_objective"
SHAPING = "tests/reinforce/test_exact_gradient.py::test_shaping_leaves_the_gradient_as_it_is"
ADVANTAGES, OBJECTIVE = "tests/unit/rl/test_advantages.py::", "tests/unit/rl/test_objective.py::"
ROUNDS = "tests/unit/rl/test_experience.py::"
SHARED = "tests/unit/rl/test_shared.py::test_hidden_vectors_and_gradients_are_what_they_were"
GROUPS = "tests/unit/stages/test_grpo.py::"
PENALTY = "- self.coefficient * kl_BT"
LAST = "targets_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(dim=1)"


@dataclass(frozen=True)
class Mutant:
    """A mistake: in a function, `old` (found once) becomes `new`; `test` fails.

    `given` is what the test is called with beside fixtures; of a function, what it makes of the test's module.
    """

    name: str
    where: str
    old: str
    new: str
    test: str
    given: dict[str, Any] = field(default_factory=dict)


MUTANTS = [
    # What is maximised.
    Mutant("the penalty has the other sign", CREDIT, PENALTY, "+ self.coefficient * kl_BT", GRADIENT),
    Mutant("the penalty is left out", CREDIT, PENALTY, "- 0.0 * kl_BT", GRADIENT),
    Mutant("the penalty counts twice", CREDIT, PENALTY, "- 2 * self.coefficient * kl_BT", GRADIENT),
    Mutant("k3 stands in the reward", CREDIT, "objective.k1(", "objective.k3(", GRADIENT),
    Mutant(
        "advantages are flipped", "lmcraft.stages.ppo:PPO.summed",
        'signals["advantages"]', '-signals["advantages"]', GRADIENT,
    ),
    Mutant(
        "values stand one token early", CREDIT,
        'rewards_BT, signals["values"]', 'rewards_BT, signals["values"].roll(-1, 1)', GRADIENT,
    ),
    Mutant(
        "the end is not trained", "lmcraft.rl.episodes:batch",
        "len(prompt) - 1 : len(ids) - 1] = torch.tensor(ids[len(prompt) :])",
        "len(prompt) - 1 : len(ids) - 2] = torch.tensor(ids[len(prompt) : -1])",
        ROUNDS + "test_the_end_is_trained_like_every_choice",
    ),
    Mutant(
        "the score is at the first token", "lmcraft.rl.episodes:at_last", LAST, "mask_BT.int().argmax(dim=1)",
        ROUNDS + "test_the_score_is_at_the_last_token",
    ),
    Mutant(
        "the score is one token early", "lmcraft.rl.episodes:at_last", LAST, LAST.replace("- 1", "- 2"),
        ROUNDS + "test_rewards_by_hand",
    ),
    Mutant(
        "k3 is wrong", "lmcraft.rl.objective:k3", "- 1 - difference_N", "- 1 + difference_N",
        OBJECTIVE + "test_estimators_in_expectation",
    ),
    Mutant(
        "the coefficient flees from its target", "lmcraft.rl.objective:adapted", "kl / target - 1",
        "1 - kl / target", OBJECTIVE + "test_the_coefficient_follows_the_divergence",
        {"kl": 12.0, "factor": 1.01024},
    ),
    Mutant(
        "the divergence is a mean over tokens", "lmcraft.rl.experience:_distance", "kl_BT.sum(dim=1).mean()",
        "kl_BT.mean()", ROUNDS + "test_the_divergence_is_a_sum_over_tokens",
    ),
    # Credit.
    Mutant(
        "0.9 stands before the next value", GAE, "discount * next_value_B", "0.9 * next_value_B",
        ADVANTAGES + "test_gae_by_hand",
    ),
    Mutant(
        "later surprises are not discounted", GAE, "discount * decay * advantage_B", "decay * advantage_B",
        ADVANTAGES + "test_gae_by_hand_with_a_discount",
    ),
    Mutant(
        "a value is expected behind the end", GAE, "values_BT[:, t] * mask[:, t]", "values_BT[:, t]",
        ADVANTAGES + "test_nothing_is_expected_behind_the_end",
    ),
    Mutant(
        "padding has advantages", GAE, "* advantage_B) * mask[:, t]", "* advantage_B)",
        ADVANTAGES + "test_nothing_is_expected_behind_the_end",
    ),
    Mutant(
        "padding is whitened too", WHITEN, "values_BT[mask_BT]", "values_BT.flatten()",
        ADVANTAGES + "test_whitening_sees_no_padding",
    ),
    Mutant(
        "the variance is unbiased", WHITEN, "unbiased=False", "unbiased=True",
        ADVANTAGES + "test_whitening_by_hand",
    ),
    Mutant(
        "whitened rewards lose their mean", CREDIT, "keep_mean=True", "keep_mean=False",
        "tests/unit/stages/test_ppo.py::test_whitened_rewards_keep_their_mean",
    ),
    Mutant(
        "a potential knows the token that is chosen", CREDIT, 'signals["potential"]',
        'signals["potential"].roll(-1, 1)', SHAPING,
    ),
    Mutant(
        "a potential stays behind the end", "lmcraft.rl.advantages:shaping",
        "torch.where(mask_BT, potential_BT, 0.0)", "potential_BT", ADVANTAGES + "test_shaping_by_hand",
    ),
    Mutant(
        "a beginning is judged with its next token", "lmcraft.rewards.reward:along",
        "for k in range(len(answer.ids))", "for k in range(1, len(answer.ids) + 1)",
        ROUNDS + "test_with_shaping_beginnings_are_judged",
    ),
    Mutant(
        "an answer is compared with itself too", "lmcraft.rl.advantages:leave_one_out",
        "(scores_PK.sum(dim=1, keepdim=True) - scores_PK) / others",
        "scores_PK.mean(dim=1, keepdim=True)", ADVANTAGES + "test_leaving_one_out_by_hand",
    ),
    Mutant(
        "one deviation for all groups", "lmcraft.rl.advantages:group_relative",
        "scores_PK.std(dim=1, keepdim=True)", "scores_PK.std()",
        ADVANTAGES + "test_groups_are_compared_within_themselves",
    ),
    Mutant(
        "groups are mixed up", "lmcraft.stages.grpo:GRPO.credit", "scores_B.view(-1, config.group)",
        "scores_B.view(config.group, -1).T", GROUPS + "test_groups_that_agree_teach_nothing_and_are_counted",
    ),
    Mutant(
        "the penalty stands in score and loss", "lmcraft.stages.grpo:GRPO.credit",
        'config.kl_coef and config.kl_in == "reward"', "config.kl_coef",
        GROUPS + "test_the_penalty_is_counted_once",
    ),
    Mutant(
        "long answers count more", "lmcraft.stages.grpo:GRPO.weights", "1 / lengths_B1", "1.0",
        GROUPS + "test_what_a_token_counts_for", {"algorithm": "grpo", "right": [0.5, 1 / 6]},
    ),
    Mutant(
        "the worst is imitated", "lmcraft.stages.best_of_n:BestOfN.keep", "argmax(dim=1)", "argmin(dim=1)",
        "tests/unit/stages/test_best_of_n.py::test_the_best_of_each_group_is_kept",
    ),
    # Steps.
    Mutant(
        "the smaller loss is taken", SURROGATE, "torch.maximum(", "torch.minimum(",
        OBJECTIVE + "test_the_clip_by_hand",
    ),
    Mutant(
        "nothing is clipped", SURROGATE, "ratio_N.clamp(1 - clip, 1 + clip)", "ratio_N",
        OBJECTIVE + "test_the_clip_by_hand",
    ),
    Mutant(
        "values are clipped around themselves", VALUES, "old_N + (values_N - old_N)",
        "values_N.detach() + (values_N - values_N.detach())",
        OBJECTIVE + "test_the_clip_of_values_by_hand",
    ),
    Mutant(
        "the smaller error of a value is taken", VALUES, "torch.maximum(", "torch.minimum(",
        OBJECTIVE + "test_the_clip_of_values_by_hand",
    ),
    Mutant(
        "log-probabilities are stale", "lmcraft.stages.ppo:PPO.summed", 'signals["logprobs"][mask_BT]',
        '0.9 * signals["logprobs"][mask_BT]', ROUNDS + "test_first_batch_has_a_ratio_of_exactly_one",
        {"micro": None},
    ),
    # Rounds of answers.
    Mutant(
        "answers are drawn at another temperature", f"{EXPERIENCE}.answers",
        "temperature=self.rollout.temperature", "temperature=1.0",
        ROUNDS + "test_sampling_and_logprobs_have_the_same_temperature", {"temperature": 0.5},
    ),
    Mutant(
        "log-probabilities know no temperature", "lmcraft.rl.learner:Learner.read",
        "self.config.rollout.temperature", "1.0",
        ROUNDS + "test_sampling_and_logprobs_have_the_same_temperature", {"temperature": 2.0},
    ),
    Mutant(
        "what was noted while sampling stands for any temperature", f"{EXPERIENCE}._read",
        "self.rollout.temperature == 1", "True",
        ROUNDS + "test_noted_logprobs_are_those_that_are_read", {"temperature": 0.7},
    ),
    Mutant(
        "every epoch has the same order", f"{EXPERIENCE}._order", "round_ << 16 | epoch", "round_ << 16",
        ROUNDS + "test_every_epoch_has_an_order_of_its_own",
    ),
    Mutant(
        "every round draws the same numbers", f"{EXPERIENCE}._answered", 'f"{self.seed} {round_}"',
        "str(self.seed)", ROUNDS + "test_a_seed_decides_every_answer",
    ),
    Mutant(
        "a round asks questions of one length", f"{EXPERIENCE}.__init__", "self.prompts.alike = False",
        "self.prompts.alike = True", ROUNDS + "test_the_prompts_of_a_round_are_a_fair_sample",
    ),
    Mutant(
        "the reference learns too", "lmcraft.train.reference:Reference.__init__", "_frozen(model, apart)",
        "model", ROUNDS + "test_the_reference_stays_where_it_was",
    ),
    Mutant(
        "an answer without an end keeps its reward", f"{EXPERIENCE}.scores", "else missing", "else score",
        ROUNDS + "test_an_answer_without_an_end_has_the_score_of_that",
    ),
    Mutant(
        "a missing end is subtracted, not the score", f"{EXPERIENCE}.scores", "else missing",
        "else score + missing", ROUNDS + "test_an_answer_without_an_end_has_the_score_of_that",
    ),
    Mutant(
        "dropout is on where answers are read", f"{EXPERIENCE}._each", "model.eval()", "model.train()",
        ROUNDS + "test_dropout_does_not_blur_the_ratio",
    ),
    Mutant(
        "dropout is on where answers are trained", "lmcraft.rl.learner:Learner.loss", "model.eval()",
        "model.train()", ROUNDS + "test_dropout_does_not_blur_the_ratio",
    ),
    Mutant(
        "a resumed run forgets its coefficient", f"{EXPERIENCE}.restore",
        'self.stage.restore(facts["stage"])', "pass", ROUNDS + "test_a_checkpoint_has_all_that_is_needed",
    ),
    Mutant(
        "the reward model reads what stands last, padding too", "lmcraft.layers.pooling:pool",
        "place_BT = index_T + positions(segments_BT.flip(1)).flip(1)",
        "place_BT = (0 * index_T + len(index_T) - 1).expand_as(segments_BT)",
        "tests/unit/generate/test_scoring.py::test_the_score_is_that_of_the_last_token",
        {"schema": lambda module: module.decoder},
    ),
    Mutant(
        "answers to one prompt read one another", "lmcraft.layers.attention:_visible_in_trees",
        "(segments_BT >= 0)[:, None, :]", "(segments_BT != 0)[:, None, :]", SHARED, {"family": "llama"},
    ),
    Mutant(
        "answers to one prompt stand behind one another", "lmcraft.layers.positions:positions",
        "trunk_lengths_BT.where(segments_BT < 0, 0)", "0", SHARED, {"family": "gpt2"},
    ),
    Mutant(
        "answers to one prompt change places", "lmcraft.rl.shared:_Rows.merged",
        "start, stop = stop, stop + len(ids)", "start, stop = stop, stop + len(ids); b = len(here) % self.shape[0]",
        "tests/unit/rl/test_shared.py::test_branches_by_hand",
    ),
]  # fmt: skip


def table() -> str:
    """The mutants as they stand in docs/rlhf-checks.md."""
    head = ["| mistake | in | caught by |", "|---|---|---|"]
    rows = [
        f"| {one.name} | `{one.where.partition(':')[2]}` | `{one.test.partition('::')[2]}` |"
        for one in MUTANTS
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    print(table())
