"""What tests share: toy networks, small models, data, comparisons."""
