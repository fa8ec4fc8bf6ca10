"""The text encoder in training: many prompts of one length beside what the vision tower saw, with 3-D positions."""

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

# Tokens of the templates that the transformer never sees (see EDIT_PREFIX and IMAGE_PREFIX in darkroom.pocket.tokens).
EDIT_PREFIX_LENGTH = 64
IMAGE_PREFIX_LENGTH = 34


def positions(
    text_encoder: Qwen2_5_VLForConditionalGeneration, ids: Tensor, seen_grids: list[tuple[int, int]]
) -> Tensor:
    """[3, 1, L]: the M-RoPE positions of one prompt [L] with pictures of (rows, columns) visual tokens in it."""
    if not seen_grids:
        return torch.arange(len(ids)).expand(3, 1, -1)
    seen = ids == text_encoder.config.image_token_id
    merge = text_encoder.model.visual.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, columns * merge] for rows, columns in seen_grids])
    found, _ = text_encoder.model.get_rope_index(ids[None], mm_token_type_ids=seen[None].int(), image_grid_thw=grid)
    return torch.as_tensor(found)


def unseen_prefix(pictures: bool) -> int:
    """How many tokens of a prompt, with pictures in it or of words alone, the transformer never sees."""
    return EDIT_PREFIX_LENGTH if pictures else IMAGE_PREFIX_LENGTH


def embed(text_encoder: Qwen2_5_VLForConditionalGeneration, ids: Tensor, seen: Tensor, places: Tensor) -> Tensor:
    """[B, L − prefix, width] from ids [B, L], visual tokens [B, cells, width] and positions [3, 1, L].

    Without visual tokens it is the text-to-image prompt, of a shorter prefix.

    All prompts must begin with their template's prefix: that of the first is read for all of them. Equal to the last
    hidden state of the whole model with `mm_token_type_ids`, as tests show.
    """
    model = text_encoder.model.language_model
    prefix = unseen_prefix(seen.shape[1] > 0)
    begun = model(input_ids=ids[:1, :prefix], position_ids=places[..., :prefix], use_cache=True).past_key_values
    begun.batch_repeat_interleave(len(ids))
    rest = ids[:, prefix:]
    words = model.embed_tokens(rest)
    pictures = (rest == text_encoder.config.image_token_id)[..., None]
    mixed = words.masked_scatter(pictures, seen.to(words.dtype))
    told = model(
        inputs_embeds=mixed,
        position_ids=places[..., prefix:].expand(3, len(ids), -1),
        past_key_values=begun,
        use_cache=True,
    )
    out: Tensor = told.last_hidden_state
    return out
