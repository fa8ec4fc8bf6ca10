"""One edit over two processes: the picture of one process."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

TOLERANCE = 1e-4
"""Of pixels in −1…1, after four forwards; measured was less than a tenth of it."""


def process(rank: int, family: str, address: str, out: str) -> None:
    """Rank 0 edits alone and then together with rank 1, which only follows."""
    from PIL import Image

    from darkroom.models.acceleration import measure
    from darkroom.models.parallel import follow, join, leading, spread
    from darkroom.models.parts import load_transformer
    from darkroom.models.shelf import Shelf
    from darkroom.models.specs import resolve
    from darkroom.settings import Settings

    torch.set_num_threads(1)
    device = torch.device("cpu")
    join(rank, 2, address, device)
    if rank == 1:
        transformer = load_transformer(Path(family) / "transformer", "float32")
        spread(transformer, device)
        Path(out, "followed.json").write_text(json.dumps(follow(transformer, device)))
    else:
        editor = Shelf(resolve(Settings(profile="pocket", edit_model=family, exact=True), None)).editor("edit")
        photo = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).convert("RGB")
        # An odd number of tokens in one of the prompts, so that the shares are unequal.
        conditioning = editor.condition(["red", "a longer one"], editor.reference([photo]), negative_prompt=" ")
        alone = measure(editor, conditioning, "none", steps=2, true_cfg_scale=4.0).pixels
        spread(editor.transformer, device)
        with leading(editor.transformer):
            together = measure(editor, conditioning, "none", steps=2, true_cfg_scale=4.0).pixels
        difference = float((alone - together).abs().max())
        Path(out, "difference.json").write_text(json.dumps([difference, float(alone.std())]))
    dist.destroy_process_group()


def test_two_processes_make_the_picture_of_one(family: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    multiprocessing.spawn(process, (str(family), address, str(tmp_path)), nprocs=2)
    difference, spread_of_values = json.loads((tmp_path / "difference.json").read_text())
    print(f"largest difference {difference:.1e} of values with a deviation of {spread_of_values:.2f}")
    assert difference <= TOLERANCE < spread_of_values / 100
    assert json.loads((tmp_path / "followed.json").read_text()) >= 4
