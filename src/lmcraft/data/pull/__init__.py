"""Where models come from: addresses, and one file for each kind of place they are fetched from."""
