"""The pocket tokenizer: a byte-level BPE with Qwen's splitting rule and Qwen's special tokens.

It is trained on the words of the pocket world and on the edit template, so that every one of those words is one
token, as it is with Qwen's own vocabulary; then the template's prefix has the real model's 64 tokens. Any other text
still encodes, byte by byte.
"""

import json

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

# In the order of Qwen2.5-VL's vocabulary, where they follow the byte pairs.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The prompt of QwenImageEditPlusPipeline up to the user's part: what is dropped after encoding.
EDIT_PREFIX = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
EDIT_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

# The prompt of QwenImagePipeline, text to image, up to the user's part: 34 tokens, as with Qwen's own vocabulary.
IMAGE_PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)

# Wider than what the present weights know: a tokenizer that changes later would void the trained text encoder.
_WORDS = """
a an the of to in into on at from with and or not no is are be it its this that these there then than as by for
make made turn change changed set paint color colour colored coloured recolor recolour fill give put draw add place
insert move shift slide push remove delete erase take away out get rid keep leave only all everything every whole
bigger smaller larger little big small large huge tiny grow shrink enlarge reduce size scale double half more less
much very slightly bit left right up down top bottom middle center centre corner side above below next near between
upper lower upwards downwards higher
red orange yellow green blue purple pink white black gray grey brown cyan teal navy gold silver dark light bright
circle square triangle star ring cross disc disk box heart diamond shape shapes object objects thing background ground
backdrop scene picture photo photograph image frame view
brighter darker lighter dimmer inverted invert negative sepia black-and-white grayscale greyscale monochrome vintage
old tone colors colours contrast brightness warm cold edges edge outline outlines lines map sketch
write word words text letter letters sign say says label read reading
person face man woman people someone hair eyes eye glasses hat cap shirt skin blond curly straight long short bald
smile smiling wearing wear portrait looking same identity front
Picture picture 1 2 3 4 frame previous next first last initial follow following according using use like
Make Turn Change Set Paint Give Put Draw Add Place Move Shift Remove Delete Erase Take Keep Write A The It
please can you what where which who how does do has have
""".split()


def train_tokenizer() -> Qwen2Tokenizer:
    """Train the byte-level BPE; the result depends on nothing but this file.

    The special tokens take the ids after the byte pairs, as in Qwen's vocabulary.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        # More than the corpus can fill: training ends when every word is one token.
        vocab_size=8192,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    vocab: dict[str, int] = tokenizer.get_vocab()
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    for token in SPECIAL_TOKENS:
        vocab[token] = len(vocab)
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # pairs, as the BPE wants them, in spite of the annotation
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=131072,
    )


def _corpus() -> list[str]:
    """Every word alone and after a space, and the templates without their special tokens."""
    templates = EDIT_PREFIX + EDIT_SUFFIX + IMAGE_PREFIX + "Picture 1: Picture 2: Picture 3: "
    for token in SPECIAL_TOKENS:
        templates = templates.replace(token, "\0")
    words = [form for word in _WORDS for form in (word, " " + word)]
    return words + [part for part in templates.split("\0") if part]
