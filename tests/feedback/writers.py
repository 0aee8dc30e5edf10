"""Writers that are killed: `python writers.py URL FOLDER WRITERS KILLS SEED`, run by test_durability.py.

Each writer is a process forked from this one, rates items as a rater of its own, and notes a key in FOLDER/<writer>.ack
only after the store has acknowledged it. A writer killed by SIGKILL is followed by another one with the same name,
which first repeats the last request of the dead one, as a client does that got no reply.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from lmcraft.feedback.judgement import Item, Judgement
from lmcraft.feedback.store import Store

PROJECT = "durable"


def write(url: str, folder: Path, name: str, items: list[Item]) -> None:
    """Rates until it is killed, or there is nothing left."""
    acks = os.open(folder / f"{name}.ack", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asks = os.open(folder / f"{name}.ask", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    asked = len(os.pread(asks, os.fstat(asks).st_size, 0).decode().split())
    with Store(url) as store:
        project, rater = store.project(PROJECT), store.rater(name)
        # The last request may or may not have been heard before the kill: it is asked again.
        for number in range(max(asked - 1, 0), len(items)):
            key = f"{name}-{number}"
            if number >= asked:
                os.write(asks, f"{key}\n".encode())
            project.rate(rater, items[number], Judgement(choice=number % 2), key=key)
            os.write(acks, f"{key}\n".encode())


def start(url: str, folder: Path, name: str, items: list[Item]) -> int:
    """Forks a writer; its process id."""
    child = os.fork()
    if child == 0:
        try:
            write(url, folder, name, items)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def main(url: str, folder: Path, writers: int, kills: int, seed: int) -> None:
    """Kills one writer after another at a random moment of its work, then the rest all at once."""
    draw = random.Random(seed)
    with Store(url) as store:
        items = sorted(store.project(PROJECT).snapshot().items.values(), key=lambda item: item.id)
    files = [folder / f"writer-{number}.ack" for number in range(writers)]
    running = {start(url, folder, file.stem, items): (file, 0) for file in files}
    for _ in range(kills):
        busy = []
        while not busy:
            time.sleep(draw.uniform(0.001, 0.05))
            busy = [child for child, (file, size) in running.items() if _size(file) > size]
        victim = draw.choice(busy)
        file, _ = running.pop(victim)
        os.kill(victim, signal.SIGKILL)
        _require_killed(os.waitpid(victim, 0)[1])
        running[start(url, folder, file.stem, items)] = (file, _size(file))
    for child in running:
        os.kill(child, signal.SIGKILL)
    for child in running:
        _require_killed(os.waitpid(child, 0)[1])


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _require_killed(status: int) -> None:
    assert os.WIFSIGNALED(status), "a writer ended by itself: it failed, or had nothing left to do"


if __name__ == "__main__":
    url, folder, *numbers = sys.argv[1:]
    main(url, Path(folder), *map(int, numbers))
