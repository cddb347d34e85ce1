"""Plain models of river for scripts/digests.py: all of their settings are here or are defaults of river."""

from typing import Any

from river import anomaly, linear_model, naive_bayes, preprocessing, tree


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def classifier_tree() -> Any:
    return tree.HoeffdingTreeClassifier()


def bayes() -> Any:
    return naive_bayes.GaussianNB()


def linear() -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


def regressor_tree() -> Any:
    return tree.HoeffdingTreeRegressor()


def half_space() -> Any:
    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)
