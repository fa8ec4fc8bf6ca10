"""What the recipes that train have in common."""
