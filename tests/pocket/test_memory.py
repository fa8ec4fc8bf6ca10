"""The shipped family is small in memory, too; most of what a process takes are the libraries. `pytest -s` says both."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MOST_MB = 400
PEAKS = ("libraries", "classes", "loaded", "edited")

# In a process of its own: what a test run has touched before would be counted, or hide what is needed.
EDIT = """
import json
import sys
from pathlib import Path

def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

import torch, diffusers, transformers
libraries = peak_mb()
torch.set_num_threads(1)  # beside other tests two would mostly wait for each other

from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES
from darkroom.technique.sampling import sample
from PIL import Image
# Both libraries import a model's module when it is first asked for.
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
classes = peak_mb()

editor = Shelf(PROFILES["pocket"]).editor("edit")
loaded = peak_mb()

with torch.inference_mode():
    references = editor.reference([Image.effect_mandelbrot((128, 128), (-2, -1.5, 1, 1.5), 50).convert("RGB")])
    width, height = editor.output_size(references, None)
    conditioning = editor.condition(["make it sepia"], references, " ")
    latents, steps = editor.noise([0], width, height), 0
    denoise = editor.denoiser(conditioning, width, height, 4.0)
    for step in sample(denoise, latents, editor.sigmas(8, width, height)):
        latents, steps = step.latents, steps + 1
    picture = editor.decode(latents, width, height)

json.dump({"libraries": libraries, "classes": classes, "loaded": loaded, "edited": peak_mb(), "steps": steps,
           "shape": list(picture.shape), "contrast": float(picture.std())}, sys.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_loading_the_family_and_an_edit_with_cfg_take_less_than_400_mb_beyond_the_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", EDIT], check=True, capture_output=True, text=True, timeout=250)
    found = json.loads(done.stdout)
    print("peak of resident memory in MB:", {name: round(found[name]) for name in PEAKS})
    assert (found["steps"], found["shape"]) == (8, [1, 3, 128, 128])
    assert found["contrast"] > 0.05
    # A process that had not loaded 41 MB of weights would pass otherwise.
    assert found["edited"] > found["classes"] + 41
    assert found["edited"] - found["libraries"] < MOST_MB, found
