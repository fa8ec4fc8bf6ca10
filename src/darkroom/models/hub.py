"""A file from the hub, downloaded beside whoever waits for it: the wait is told how far it is, and can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.1

Tell = Callable[[int, int | None], None]
"""Hears bytes done and in all, the latter None until the hub has said it; what it raises ends the wait."""


def unheard(_done: int, _total: int | None) -> None:
    """For whom progress is of no interest."""


def download(repo: str, file: str, revision: str | None, token: bool | None, cache: Path | None, tell: Tell) -> Path:
    """A file's place in `cache`, or in the hub's own where that is None.

    Raises what `tell` raises, else what `hf_hub_download` does.

    A wait that is given up ends at once; the download itself ends with its next piece (10 MiB over HTTP) and leaves
    nothing behind. What comes through Xet may go on to its end, and is in the cache for the next who asks.
    """
    from huggingface_hub import hf_hub_download

    meter, result = _Meter(), Future[str]()

    def work() -> None:
        try:
            bar = _bar_of(meter)
            path = hf_hub_download(repo, file, revision=revision, token=token, cache_dir=cache, tqdm_class=bar)
            result.set_result(path)
        except BaseException as error:
            result.set_exception(error)

    # A daemon: the end of the process waits for no download.
    threading.Thread(target=work, name="hub", daemon=True).start()
    try:
        while result not in wait([result], POLL_SECONDS).done:
            tell(meter.done, meter.total)
    except BaseException:
        meter.given_up = True
        raise
    return Path(result.result())


class _Meter:
    """How far a download is, and whether anybody still waits for it."""

    def __init__(self) -> None:
        self.done, self.given_up = 0, False
        self.total: int | None = None

    def add(self, number: int) -> None:
        if self.given_up:
            raise InterruptedError("nobody waits for this download any more")
        self.done += number


def _bar_of(meter: _Meter) -> type[Any]:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """The library's way to be told: a class of progress bars, of which this one draws nothing."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**{**settings, "disable": True})  # type: ignore[no-untyped-call]
            meter.total = settings.get("total")

        def update(self, n: float | None = 1) -> None:
            meter.add(int(n or 0))

        def update_transfer(self, n: float) -> None:
            """Bytes on their way through Xet are counted when they are written."""

    return Bar
