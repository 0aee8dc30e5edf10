"""Looking into a model: attention, predictions, the logit lens, shapes, on one page without a network."""
