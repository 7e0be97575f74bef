"""The method: noise, partition, preconditioning, targets, samplers."""
