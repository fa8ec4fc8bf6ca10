"""The only room that loads weights: what to load, how it is kept warm, and the editor that runs it."""

from darkroom.models.notices import silence

# Here and not where torch is imported, since whichever of the room's files comes first imports it.
silence()
