"""Parts of models that river lacks: what happens to features between the event and the estimator."""
