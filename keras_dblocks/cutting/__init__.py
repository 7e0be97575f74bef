"""Networks that exist, cut into blocks for the training steps of `training`."""
