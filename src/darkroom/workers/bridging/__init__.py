"""What the bridge's recipes share."""
