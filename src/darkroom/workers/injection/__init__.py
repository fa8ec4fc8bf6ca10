"""What the injection jobs share: people and their features, a prompt with slots, cells and their measures."""
