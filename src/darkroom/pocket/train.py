"""Train the pocket's parts from nothing but a seed; each stage resumes where it stopped.

edit: the family that edits and draws, by the stages VAE, sight, pairs and flow. qwen3vl: the finer sight beside it.
bridge: from the one's sight to the other's. perceptual, identity: two rulers.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline

from darkroom.models.vision import VisionExtractor
from darkroom.pocket.family import assemble, save
from darkroom.pocket.judging.samples import load_editor
from darkroom.pocket.qwen3vl import make_model, make_processor
from darkroom.pocket.qwen3vl import save as save_qwen3vl
from darkroom.pocket.shipped import WEIGHTS, install
from darkroom.pocket.stages.bridge_stage import BridgeRecipe, save_bridge, train_bridge
from darkroom.pocket.stages.checkpoint import load_checkpoint, save_checkpoint
from darkroom.pocket.stages.drawing import DOT_WEIGHTS, draw_set
from darkroom.pocket.stages.encoders import save_half
from darkroom.pocket.stages.flow_stage import FlowRecipe, train_flow
from darkroom.pocket.stages.identity_stage import IdentityRecipe, train_identity
from darkroom.pocket.stages.pairs import Pairs, balanced, join, load_or_make
from darkroom.pocket.stages.perceptual_stage import PerceptualRecipe, train_perceptual
from darkroom.pocket.stages.qwen3vl_stage import Qwen3VLRecipe, train_qwen3vl
from darkroom.pocket.stages.sight_stage import SightRecipe, train_sight
from darkroom.pocket.stages.transformer_start import start_transformer
from darkroom.pocket.stages.vae_stage import VaeRecipe, polish_decoder, train_vae
from darkroom.pocket.tokens import train_tokenizer
from darkroom.pocket.world.edits import KINDS
from darkroom.pocket.world.portraits import PORTRAIT_EDITS

Report = Callable[[str], None]
# Folders of `work`, and of the shipped weights.
_BRIDGED = {"family": "edit", "qwen3vl": "qwen3vl"}
PARTS = ("edit", "qwen3vl", "bridge", "perceptual", "identity")


@dataclass(frozen=True)
class Recipe:
    """All stages. The defaults are those of the shipped weights."""

    vae: VaeRecipe = field(default_factory=lambda: VaeRecipe(steps=1500))
    # The decoder once more, with the latents held still: +3.4 dB on scenes for 80 seconds of one core.
    decoder: VaeRecipe = field(
        default_factory=lambda: VaeRecipe(
            steps=250, batch=16, pool=1500, latent_noise=0.07, decoder_lr=0.006, seed=7, compiled=False
        )
    )
    sight: SightRecipe = field(default_factory=lambda: SightRecipe(steps=600))
    flow: FlowRecipe = field(default_factory=FlowRecipe)
    # Of each of drawing.SETS: how many shards, and the draws in each.
    shards: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "pairs": (14, 2500),
            "follows": (3, 1500),
            "dots": (3, 2000),
            "portraits": (2, 2000),
            "captions": (4, 2500),
            "wide": (2, 1000),
            "tall": (2, 1000),
        }
    )
    # How often each example of a kind is shown, where that is not once; 0 leaves a kind out.
    times: Mapping[str, int] = field(
        default_factory=lambda: {"follow": 3, **dict.fromkeys(("portrait", *DOT_WEIGHTS, *PORTRAIT_EDITS), 2)}
    )
    qwen3vl: Qwen3VLRecipe = field(default_factory=Qwen3VLRecipe)
    bridge: BridgeRecipe = field(default_factory=BridgeRecipe)
    perceptual: PerceptualRecipe = field(default_factory=PerceptualRecipe)
    identity: IdentityRecipe = field(default_factory=IdentityRecipe)
    seed: int = 0


def train(work: Path, recipe: Recipe, report: Report = print, threads: int = 0, begin_with: Path | None = None) -> Path:
    """Run every stage that `work` does not hold yet and return the folder of the trained family.

    `begin_with` is a family whose training goes on, with fresh optimizers, where `work` holds no checkpoint: its VAE
    and sight stay, its transformer and text encoder learn further, perhaps other kinds of edits.
    The same recipe gives the same weights on the same machine and number of threads, interrupted or not. With
    `threads` 0 the flow stage takes the cores that other processes leave free, and sums round differently each time.
    """
    if threads:
        torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        pipeline = assemble()
    if begin_with is not None:
        pipeline = _adopt(begin_with, work)
    else:
        _vae(pipeline, work, recipe, report)
        _sight(pipeline, work, recipe, report)
        start_transformer(pipeline.transformer)
    sets = [_pairs(pipeline, name, work, recipe, report) for name in recipe.shards]
    train_flow(
        pipeline.transformer,
        pipeline.text_encoder,
        sets,
        pipeline.tokenizer,
        recipe.flow,
        work / "flow.pt",
        report,
        yielding=not threads,
    )
    save(pipeline, work / "family")
    return work / "family"


def train_vision(work: Path, recipe: Recipe, report: Report = print) -> Path:
    """Train the pocket Qwen3-VL, from its checkpoint in `work` if there is one, and return its folder."""
    tokenizer = train_tokenizer()
    processor = make_processor(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = make_model(tokenizer)
    train_qwen3vl(model, processor, recipe.qwen3vl, work / "qwen3vl.pt", report)
    save_qwen3vl(model, processor, work / "qwen3vl")
    return work / "qwen3vl"


def train_the_bridge(work: Path, recipe: Recipe, report: Report = print) -> Path:
    """Train the bridge between the family and the Qwen3-VL in `work`; of what is not there, the shipped one serves."""
    family, sight = (work / part if (work / part).is_dir() else WEIGHTS / ship for part, ship in _BRIDGED.items())
    eyes = VisionExtractor.load(sight, torch.device("cpu"), language=False)
    bridge, _ = train_bridge(load_editor(family), eyes, recipe.bridge, report)
    save_bridge(bridge, work / "bridge" / "bridge.safetensors")
    return work / "bridge"


def train_rulers(work: Path, recipe: Recipe, report: Report = print) -> dict[str, Path]:
    """Train the encoders that judge likeness and identity: seconds to minutes, without checkpoints."""
    files = {name: work / name / "encoder.safetensors" for name in ("perceptual", "identity")}
    if not files["perceptual"].exists():
        save_half(train_perceptual(recipe.perceptual, report)[0], files["perceptual"])
    if not files["identity"].exists():
        save_half(train_identity(recipe.identity, report)[0], files["identity"])
    return {name: file.parent for name, file in files.items()}


def train_parts(
    parts: Sequence[str], work: Path, recipe: Recipe, report: Report, threads: int = 0, begin_with: Path | None = None
) -> dict[str, Path]:
    """The folder of each of `parts` (PARTS), trained as far as `work` does not hold it yet."""
    if threads:
        torch.set_num_threads(threads)
    made: dict[str, Path] = {}
    if "edit" in parts:
        made["edit"] = train(work, recipe, report, threads, begin_with)
    if "qwen3vl" in parts:
        made["qwen3vl"] = train_vision(work, recipe, report)
    if "bridge" in parts:
        made["bridge"] = train_the_bridge(work, recipe, report)
    if {"perceptual", "identity"} & set(parts):
        made |= {name: folder for name, folder in train_rulers(work, recipe, report).items() if name in parts}
    return made


def export(work: Path, seed: int = 0) -> Path:
    """The family as far as training in `work` has come, with the averaged weights: judge it while training goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = assemble()
    _restore_vae(pipeline, work)
    pipeline.text_encoder.load_state_dict(_needed(work / "sight_done.pt"))
    average = _needed(work / "flow.pt")["average"]
    parts = {"transformer": pipeline.transformer, "text": pipeline.text_encoder.model.language_model}
    for part, model in parts.items():
        model.load_state_dict({k.removeprefix(part + "."): v for k, v in average.items() if k.startswith(part + ".")})
    folder = work / "exported"
    save(pipeline, folder)
    return folder


def _adopt(family: Path, work: Path) -> QwenImageEditPlusPipeline:
    """A finished family as the start of more training; `export` finds its first stages in `work`."""
    pipeline = QwenImageEditPlusPipeline.from_pretrained(family)
    _keep_vae(pipeline, work)
    save_checkpoint(work / "sight_done.pt", pipeline.text_encoder.state_dict())
    return pipeline


def _vae(pipeline: QwenImageEditPlusPipeline, work: Path, recipe: Recipe, report: Report) -> None:
    if not (work / "vae_done.pt").exists():
        train_vae(pipeline.vae, recipe.vae, work / "vae.pt", report)
        polish_decoder(pipeline.vae, recipe.decoder, report)
        _keep_vae(pipeline, work)
    _restore_vae(pipeline, work)


def _keep_vae(pipeline: QwenImageEditPlusPipeline, work: Path) -> None:
    statistics = {name: list(pipeline.vae.config[name]) for name in ("latents_mean", "latents_std")}
    save_checkpoint(work / "vae_done.pt", {"weights": pipeline.vae.state_dict(), **statistics})


def _restore_vae(pipeline: QwenImageEditPlusPipeline, work: Path) -> None:
    state = _needed(work / "vae_done.pt")
    pipeline.vae.load_state_dict(state["weights"])
    pipeline.vae.register_to_config(latents_mean=state["latents_mean"], latents_std=state["latents_std"])


def _sight(pipeline: QwenImageEditPlusPipeline, work: Path, recipe: Recipe, report: Report) -> None:
    path = work / "sight_done.pt"
    if not path.exists():
        train_sight(pipeline.text_encoder, pipeline.processor, recipe.sight, report)
        save_checkpoint(path, pipeline.text_encoder.state_dict())
    pipeline.text_encoder.load_state_dict(_needed(path))


def _pairs(pipeline: QwenImageEditPlusPipeline, name: str, work: Path, recipe: Recipe, report: Report) -> Pairs:
    count, draws = recipe.shards[name]
    shards = []
    for number in range(recipe.seed, recipe.seed + count):
        draw = partial(draw_set, name, number, draws)
        shards.append(load_or_make(work / f"{name}_{number}_{draws}.pt", pipeline, draw))
        report(f"{name}: shard {len(shards)} of {count}, {len(shards[-1])} examples")
    return balanced(join(shards), recipe.times)


def _needed(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"no checkpoint {path.name}: run the training first")
    return state


def with_shards(recipe: Recipe, shards: int | None) -> Recipe:
    """`recipe` with so many shards of edits on one square picture; None leaves it as it is."""
    if shards is None:
        return recipe
    return replace(recipe, shards={**recipe.shards, "pairs": (shards, recipe.shards["pairs"][1])})


def main() -> None:
    """`python -m darkroom.pocket.train`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=FlowRecipe.steps, help="steps of the flow stage")
    parser.add_argument("--shards", type=int, help="shards of the edits on one square picture")
    parser.add_argument("--begin-with", type=Path, help="a family whose training goes on, such as the shipped one")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="what to teach; by default what the recipe does")
    parser.add_argument("--threads", type=int, default=0, help="0: what other processes leave free")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--export", action="store_true", help="only write what the checkpoints hold")
    parser.add_argument("--install", action="store_true", help="put the result in the place of the shipped weights")
    options = parser.parse_args()
    recipe = with_shards(
        Recipe(flow=replace(FlowRecipe(), steps=options.steps, compiled=options.compile)), options.shards
    )
    if options.kinds:
        recipe = replace(recipe, times={kind: int(kind in options.kinds) for kind in KINDS})
    if options.export:
        made = {"edit": export(options.work)}
    else:
        made = train_parts(options.parts, options.work, recipe, _say, options.threads, options.begin_with)
    if options.install:
        for name, folder in made.items():
            install(folder, WEIGHTS / name)
            _say(f"installed {name} in {WEIGHTS / name}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
