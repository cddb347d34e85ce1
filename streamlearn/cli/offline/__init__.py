"""Commands that read a SOURCE: look at it, replay it, learn from it, answer it, compare models on it."""
