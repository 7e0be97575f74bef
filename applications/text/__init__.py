"""Text models: strings, likelihood, and generation token by token."""
