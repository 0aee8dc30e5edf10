"""The offline page that tells what a run did."""
