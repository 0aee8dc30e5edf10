"""The building blocks of models: attention, recurrence, norms, positions."""
