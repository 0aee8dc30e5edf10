"""`import lmcraft` and `lmcraft --help` are light."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "matplotlib",
    "tensorboardX",
    "pyarrow",
    "scipy",
    "pandas",
    "sqlalchemy",
    "alembic",
    "sklearn",
)
REPORT = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"


@pytest.mark.parametrize(
    "source",
    [
        "import lmcraft; lmcraft.__version__; dir(lmcraft)",
        "import lmcraft.core.run, lmcraft.core.config, lmcraft.core.log, lmcraft.core.find, lmcraft.core.device",
        "from lmcraft.cli.main import run; assert run(['--help']) == 0",
        "from lmcraft.cli.main import run; assert run(['no-such-verb']) == 2",
        "from lmcraft.cli.main import run, verbs; assert [run([verb, '--help']) for verb in verbs()].count(0) > 1",
    ],
)
def test_nothing_heavy_is_imported(source: str) -> None:
    """If this failed, help, typos and scripts would wait seconds for libraries they do not use."""
    done = subprocess.run(
        [sys.executable, "-c", f"{source}\n{REPORT}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_train_is_a_function_and_a_folder() -> None:
    """If this failed, `lmcraft.train(...)` would work or not depending on what was imported before."""
    import lmcraft
    import lmcraft.train.loop as loop

    assert lmcraft.train.loop is loop and loop.Config
    with pytest.raises(lmcraft.core.errors.UserError, match="no 'pretran' in stages"):
        next(lmcraft.train("pretran"))


def test_the_names_of_the_package_are_what_it_says() -> None:
    """If this failed, `lmcraft.train` would be missing, or a misspelt name would not be an AttributeError."""
    import lmcraft

    assert lmcraft.__all__ == sorted(lmcraft.__all__) and set(lmcraft.__all__) <= set(dir(lmcraft))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lmcraft.trian  # noqa: B018
    for name in lmcraft.__all__:
        assert getattr(lmcraft, name)
