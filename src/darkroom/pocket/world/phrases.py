"""How a person asks for each kind of edit."""

import numpy as np

from darkroom.pocket.world.follow import FOLLOW

PHRASES: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make the {shape} {colour}",
        "turn the {shape} {colour}",
        "paint the {shape} {colour}",
        "change the {shape} to {colour}",
        "change the color of the {shape} to {colour}",
    ),
    "background": (
        "change the background to {colour}",
        "make the background {colour}",
        "turn the background {colour}",
        "set the background to {colour}",
    ),
    "remove": ("remove the {shape}", "delete the {shape}", "erase the {shape}", "take the {shape} away"),
    "bigger": ("make the {shape} bigger", "make the {shape} larger", "enlarge the {shape}"),
    "smaller": ("make the {shape} smaller", "shrink the {shape}", "reduce the {shape}"),
    "move": ("move the {shape} {direction}", "move the {shape} to the {direction}", "shift the {shape} {direction}"),
    "turn": (
        "turn the {shape} into a {new}",
        "change the {shape} into a {new}",
        "make the {shape} a {new}",
    ),
    "add": ("add a {colour} {shape}", "draw a {colour} {shape}", "put a {colour} {shape} in the picture"),
    "black and white": ("make it black and white", "turn it black and white", "make the picture black and white"),
    "sepia": ("make it sepia", "turn it sepia", "make the picture sepia"),
    "brighter": ("make it brighter", "make the picture brighter", "make it lighter"),
    "darker": ("make it darker", "make the picture darker", "darken it"),
    "inverted": ("invert the colors", "make it inverted", "invert it"),
    "dot": (
        "make the {shape} the color of the dot",
        "paint the {shape} like the little dot",
        "give the {shape} the color of the dot",
    ),
    "label": (
        "make the {shape} the color that the word says",
        "paint the {shape} as the word says",
        "read the word and paint the {shape}",
    ),
    "arrow": (
        "move the {shape} where the arrow says",
        "shift the {shape} as the arrow says",
        "follow the arrow and move the {shape}",
    ),
    "dot background": (
        "make the background the color of the dot",
        "paint the background like the little dot",
        "give the background the color of the dot",
    ),
    "dot move": (
        "move the {shape} to the side where the dot is",
        "shift the {shape} to the side of the dot",
        "move the {shape} as the little dot says",
    ),
    "hair": ("give the person {colour} hair", "make the hair {colour}", "change the hair to {colour}"),
    "glasses": ("give the person glasses", "put glasses on the person", "draw glasses on the face"),
    "hat": ("give the person a {colour} hat", "put a {colour} hat on the person", "add a {colour} hat"),
    "edges": ("draw only the edges", "leave only the edges", "turn the picture into an edge map"),
    "follow": FOLLOW,
    "follow people": FOLLOW,
    "write": ('write "{word}"', 'write the word "{word}"', 'put the word "{word}" in the picture'),
    "reword": ('change the word to "{word}"', 'change the text to "{word}"', 'make it say "{word}"'),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

_SIDEWAYS = ("left", "right")


def phrase(rng: np.random.Generator, kind: str, **words: str) -> str:
    """One of the phrasings of `kind`, filled in; one in eight begins with a capital or ends with a full stop."""
    choices = PHRASES[kind]
    if kind == "move" and words["direction"] not in _SIDEWAYS:
        # Nobody moves a thing "to the up".
        choices = tuple(choice for choice in choices if "to the {direction}" not in choice)
    text = choices[rng.integers(len(choices))].format(**words)
    # The article of the only vowel among the colours.
    text = text.replace(" a orange", " an orange")
    if rng.random() < 0.125:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.125 else text
