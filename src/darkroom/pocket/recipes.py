"""How the pocket's parts are trained: named sets of every stage's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import NonNegativeInt, PositiveInt

from darkroom.pocket.stages.bridge_stage import BridgeRecipe
from darkroom.pocket.stages.drawing import DOT_WEIGHTS, TEACHES
from darkroom.pocket.stages.flow_stage import FlowRecipe
from darkroom.pocket.stages.identity_stage import IdentityRecipe
from darkroom.pocket.stages.lightning_stage import LightningRecipe
from darkroom.pocket.stages.path_stage import PathRecipe
from darkroom.pocket.stages.perceptual_stage import PerceptualRecipe
from darkroom.pocket.stages.qwen3vl_stage import Qwen3VLRecipe
from darkroom.pocket.stages.sight_stage import SightRecipe
from darkroom.pocket.stages.vae_stage import VaeRecipe

# From nothing edits are read before they are drawn, and reading counts more than where a family goes on.
_FROM_NOTHING = FlowRecipe(reading=400, naming=0.5, hearing=0.5, pointing=0.5)


@dataclass(frozen=True)
class Recipe:
    """All stages. The defaults: what the runs behind the shipped weights taught (docs/pocket-training.md), as one."""

    vae: VaeRecipe = field(default_factory=lambda: VaeRecipe(steps=1500))
    # The decoder once more, with the latents held still: +3.4 dB on scenes for 80 seconds of one core.
    decoder: VaeRecipe = field(
        default_factory=lambda: VaeRecipe(
            steps=250, batch=16, pool=1500, latent_noise=0.07, decoder_lr=0.006, seed=7, compiled=False
        )
    )
    # Nine minutes of one core; with 600 steps it names 82 % of cells, with these 99 %.
    sight: SightRecipe = field(default_factory=lambda: SightRecipe(steps=2500))
    # Four and a half hours of two cores.
    flow: FlowRecipe = field(default_factory=lambda: replace(_FROM_NOTHING, steps=18_000))
    # An hour of two cores.
    path: PathRecipe = field(default_factory=lambda: PathRecipe(steps=2500, matrix_lr=0.003))
    # Of each of drawing.SETS: how many shards, and the draws in each.
    shards: Mapping[str, tuple[PositiveInt, PositiveInt]] = field(
        default_factory=lambda: {
            "pairs": (12, 2500),
            "follows": (2, 1500),
            "dots": (1, 2000),
            "portraits": (2, 2000),
            "captions": (6, 2500),
            "wide": (1, 1000),
            "tall": (1, 1000),
            "edges": (1, 1500),
            "people_follows": (1, 1500),
            "words": (3, 2500),
        }
    )
    # How often each example of a kind is shown, where that is not once; 0 leaves a kind out. What must be drawn anew is
    # shown more often; kinds that stay poor (edge maps, people's clips, words in the place of others) once.
    times: Mapping[str, NonNegativeInt] = field(
        default_factory=lambda: {
            "follow": 5,
            **dict.fromkeys(("turn", "bigger", "smaller", "add", "write", "hair", "hat", *DOT_WEIGHTS), 3),
            **dict.fromkeys(("brighter", "sepia"), 3),
            **dict.fromkeys(("move", "background", "inverted", "darker", "black and white", "glasses"), 2),
        }
    )
    lightning: LightningRecipe = field(default_factory=LightningRecipe)
    qwen3vl: Qwen3VLRecipe = field(default_factory=Qwen3VLRecipe)
    bridge: BridgeRecipe = field(default_factory=BridgeRecipe)
    perceptual: PerceptualRecipe = field(default_factory=PerceptualRecipe)
    identity: IdentityRecipe = field(default_factory=IdentityRecipe)
    # Held-out edits of each kind by which flow and path are judged; the VAE sees four pictures for each of them, sight,
    # Qwen3-VL and the rulers ten.
    cases: PositiveInt = 6
    seed: NonNegativeInt = 0


def _short() -> Recipe:
    """A quarter of the edits, of fewer examples, to try a change: what it makes is not to be used."""
    small = Recipe()
    return replace(
        small,
        flow=replace(_FROM_NOTHING, steps=4_500),
        path=replace(small.path, steps=500),
        shards={**small.shards, "pairs": (6, 2500), "captions": (3, 2500)},
        times={**small.times, "hair": 5, "hat": 4, "glasses": 3},
    )


def _gpu() -> Recipe:
    """Larger batches, three times the examples, nearly three times the edits: by arithmetic three runs of 8 minutes."""
    small = Recipe()
    return replace(
        small,
        vae=VaeRecipe(steps=3000, batch=64),
        decoder=replace(small.decoder, steps=500, batch=32),
        sight=SightRecipe(steps=1500, batch=96),
        flow=replace(_FROM_NOTHING, steps=12000, batch=128, warmup=300),
        path=PathRecipe(steps=1500, batch=32),
        shards={name: (3 * shards, draws) for name, (shards, draws) in small.shards.items()},
        qwen3vl=Qwen3VLRecipe(steps=4000, batch=48, warmup=60),
        perceptual=PerceptualRecipe(steps=1200, batch=32),
        identity=IdentityRecipe(steps=3000, batch=96),
    )


def _smoke() -> Recipe:
    """A few steps of everything: whether it runs here, not whether it learns."""
    vae = VaeRecipe(steps=3, batch=2, crop=32, pool=4, photos=0.5, compiled=False)
    return Recipe(
        vae=vae,
        decoder=replace(vae, seed=7),
        sight=SightRecipe(steps=3, batch=2),
        flow=FlowRecipe(steps=4, batch=4, warmup=2, compiled=False, reading=1, alone=0.5),
        path=PathRecipe(steps=2, batch=2, counts=(2, 3), learns=1),
        shards=dict.fromkeys(Recipe().shards, (1, 1)),
        lightning=LightningRecipe(
            steps=2, batch=2, substeps=1, held_out=1, shards=dict.fromkeys(("pairs", "captions"), (1, 2))
        ),
        qwen3vl=Qwen3VLRecipe(steps=3, batch=2, warmup=2),
        bridge=BridgeRecipe(triples=6, held_out=2, epochs=3, batch=2, rank=8),
        perceptual=PerceptualRecipe(steps=3, batch=2, pool=4),
        identity=IdentityRecipe(steps=3, batch=2, pool=4),
        cases=1,
    )


RECIPES: Mapping[str, Recipe] = {"cpu": Recipe(), "short": _short(), "gpu": _gpu(), "smoke": _smoke()}


def with_shards(recipe: Recipe, shards: int | None) -> Recipe:
    """`recipe` with so many shards of edits on one square picture; None leaves it as it is."""
    if shards is None:
        return recipe
    return replace(recipe, shards={**recipe.shards, "pairs": (shards, recipe.shards["pairs"][1])})


def with_kinds(recipe: Recipe, kinds: Sequence[str] | None) -> Recipe:
    """`recipe` that teaches these kinds alone, each example once; None leaves it as it is.

    Raises ValueError for kinds that none of the recipe's sets draws.
    """
    if kinds is None:
        return recipe
    drawn = {kind for name in recipe.shards for kind in TEACHES[name]}
    if missing := sorted(set(kinds) - drawn):
        sets = ", ".join(recipe.shards)
        raise ValueError(f"--kind: {', '.join(missing)}: in none of the recipe's sets, which are {sets}")
    shards = {name: count for name, count in recipe.shards.items() if set(TEACHES[name]) & set(kinds)}
    return replace(recipe, shards=shards, times={kind: int(kind in kinds) for kind in sorted(drawn)})
