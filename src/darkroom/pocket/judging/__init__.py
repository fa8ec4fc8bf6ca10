"""How the pocket family's edits are judged: by rules on pixels, on scenes it has never seen."""
