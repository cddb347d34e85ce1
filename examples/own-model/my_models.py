"""A model of your own: any river classifier, regressor or anomaly detector."""

from river import linear_model, optim, preprocessing


def build(rate: float = 0.01):
    """Features to a common scale, then logistic regression."""
    learner = linear_model.LogisticRegression(optimizer=optim.SGD(rate))
    return preprocessing.StandardScaler() | learner
