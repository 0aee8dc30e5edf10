"""`python -m lmcraft`: the command line without an installed script, as `torchrun -m lmcraft` needs it.

Proved by tests/cli/test_help.py.
"""

from __future__ import annotations

from lmcraft.cli.main import main

if __name__ == "__main__":
    main()
