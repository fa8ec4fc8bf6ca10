"""The only room that loads weights: what to load, how it is kept warm, and the editor that runs it."""
