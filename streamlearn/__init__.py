"""streamlearn: models that keep learning on a live stream, and can be trusted with it."""
