"""Questions about language models, answered by small experiments that end in a number and a figure."""
