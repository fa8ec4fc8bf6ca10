"""How the pocket family is trained: one file per stage, and what the stages share."""
