"""Text in and out of models: strings, likelihood, writing token by token."""
