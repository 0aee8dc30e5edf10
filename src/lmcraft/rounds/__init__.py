"""Rounds of human feedback: answers, votes, a reward model, a better policy, and again."""
