"""From layouts on disk to images in memory: sources, the store, splits, the test firewall."""
