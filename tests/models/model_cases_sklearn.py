"""scikit-learn estimators and pipelines through skl2onnx, compared with onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from model_registry import Made, case
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from converters import from_onnx

SOURCE = "scikit-learn, skl2onnx"
ROWS = 120


def classes(count: int = 2, features: int = 8) -> tuple[Any, Any]:
    """Rows of features and their classes."""
    rows, target = make_classification(
        ROWS, features, n_informative=5, n_redundant=1, n_classes=count, random_state=0, flip_y=0.05
    )
    return rows.astype(np.float32), target


def targets(count: int = 1, features: int = 6) -> tuple[Any, Any]:
    """Rows of features and numbers of the order 1."""
    rows, target = make_regression(ROWS, features, n_targets=count, noise=1, random_state=0)
    return rows.astype(np.float32), (target / np.abs(target).max()).astype(np.float32)


def ready(proto: Any, feeds: dict[str, Any], **options: Any) -> Made:
    """Convert an ONNX model, and ask onnxruntime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    expected = [np.asarray(one) for one in session.run(None, feeds)]
    model = from_onnx(proto, **options)
    inputs = tuple(feeds[spec.name] for spec in model.inputs)
    return Made(model, inputs, tuple(expected))


def exported(estimator: Any, data: tuple[Any, Any], **options: Any) -> Made:
    """Train, export and convert."""
    rows, target = data
    estimator.fit(rows, target)
    choices: dict[str, Any] = {}
    if is_classifier(estimator) and not isinstance(estimator, LinearSVC):
        choices = {"zipmap": False}
    proto = to_onnx(estimator, rows[:1], options={id(estimator): choices} if choices else None)
    return ready(proto, {"X": rows}, **options)


@case(SOURCE)
def logistic_regression() -> Made:
    return exported(make_pipeline(StandardScaler(), LogisticRegression()), classes())


@case(SOURCE)
def logistic_regression_of_three_classes() -> Made:
    return exported(LogisticRegression(), classes(3))


@case(SOURCE)
def linear_regression() -> Made:
    return exported(LinearRegression(), targets())


@case(SOURCE)
def ridge_with_three_targets() -> Made:
    return exported(make_pipeline(MinMaxScaler(), Ridge(alpha=0.1)), targets(3))


@case(SOURCE)
def support_vectors_with_probabilities() -> Made:
    return exported(make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)), classes())


@case(
    SOURCE,
    plain_tolerance=2e-3,
    spu_tolerance=5e-3,
    note="libsvm stops coupling the probabilities of pairs within 0.005 / classes of the solution that is "
    "computed here.",
)
def support_vectors_of_three_classes() -> Made:
    return exported(make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)), classes(3))


@case(SOURCE)
def support_vectors_with_votes() -> Made:
    return exported(make_pipeline(StandardScaler(), SVC(kernel="poly", degree=2)), classes(3))


@case(SOURCE)
def support_vector_regression() -> Made:
    return exported(make_pipeline(StandardScaler(), SVR()), targets())


@case(SOURCE)
def decision_tree() -> Made:
    return exported(DecisionTreeClassifier(max_depth=5, random_state=0), classes(3))


@case(SOURCE)
def random_forest() -> Made:
    return exported(RandomForestClassifier(10, max_depth=4, random_state=0), classes())


@case(SOURCE)
def random_forest_by_levels() -> Made:
    forest = RandomForestClassifier(10, max_depth=4, random_state=0)
    return exported(forest, classes(3), tree_formulation="level")


@case(SOURCE)
def random_forest_by_choices() -> Made:
    return exported(RandomForestClassifier(5, max_depth=3, random_state=0), classes(), tree_formulation="mux")


@case(SOURCE)
def random_forest_with_two_targets() -> Made:
    return exported(RandomForestRegressor(5, max_depth=4, random_state=0), targets(2))


@case(SOURCE)
def extra_trees_of_any_depth() -> Made:
    return exported(ExtraTreesClassifier(3, random_state=0), classes())


@case(SOURCE)
def gradient_boosting() -> Made:
    return exported(GradientBoostingClassifier(n_estimators=8, random_state=0), classes(3))


@case(SOURCE)
def histogram_gradient_boosting() -> Made:
    return exported(HistGradientBoostingRegressor(max_iter=8, random_state=0), targets())


@case(SOURCE)
def isolation_forest() -> Made:
    rows, _ = classes()
    forest = IsolationForest(n_estimators=4, max_samples=16, random_state=0).fit(rows)
    proto = to_onnx(forest, rows[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    return ready(proto, {"X": rows})


@case(SOURCE)
def adaptive_boosting() -> Made:
    stump = DecisionTreeClassifier(max_depth=2)
    return exported(AdaBoostClassifier(stump, n_estimators=4, random_state=0), classes())


@case(SOURCE)
def vote_of_three() -> Made:
    members = [
        ("linear", LogisticRegression()),
        ("trees", RandomForestClassifier(3, max_depth=3, random_state=0)),
        ("bayes", GaussianNB()),
    ]
    return exported(VotingClassifier(members, voting="soft", flatten_transform=False), classes())


@case(SOURCE)
def nearest_neighbours() -> Made:
    rows, target = classes(2, 6)
    model = KNeighborsClassifier(3).fit(rows[:40], target[:40])
    proto = to_onnx(model, rows[:1], options={id(model): {"zipmap": False}})
    return ready(proto, {"X": rows})


@case(SOURCE)
def perceptron() -> Made:
    model = MLPClassifier((16,), max_iter=40, random_state=0)
    return exported(make_pipeline(StandardScaler(), model), classes(3))


@case(SOURCE)
def perceptron_regression() -> Made:
    return exported(MLPRegressor((16, 8), max_iter=40, random_state=0), targets())


@case(SOURCE)
def naive_bayes() -> Made:
    return exported(GaussianNB(), classes(3))


@case(SOURCE)
def principal_components() -> Made:
    return exported(make_pipeline(PCA(4), LogisticRegression()), classes())


@case(SOURCE)
def polynomials_of_selected_features() -> Made:
    steps = (SelectKBest(k=4), PolynomialFeatures(2), StandardScaler(), LogisticRegression())
    return exported(make_pipeline(*steps), classes())


@case(SOURCE)
def normalized_rows() -> Made:
    return exported(make_pipeline(Normalizer(), LogisticRegression()), classes())


@case(SOURCE)
def calibrated_support_vectors() -> Made:
    return exported(CalibratedClassifierCV(LinearSVC(), cv=2), classes())


@case(SOURCE)
def linear_support_vectors() -> Made:
    return exported(LinearSVC(), classes(3))


def table() -> tuple[Any, Any]:
    """Numbers (some missing), a string and an integer category, and a class of strings."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 3)).astype(np.float32), columns=["age", "height", "income"])
    frame["city"] = rng.choice(["Bern", "Genève", "Zürich"], ROWS)
    frame["grade"] = rng.integers(0, 4, ROWS)
    score = frame["age"] + (frame["city"] == "Bern") + 0.3 * frame["grade"]
    frame.loc[::7, "height"] = np.nan
    return frame, np.where(score > 0.6, "accept", "reject")


def columns(last: Any) -> Made:
    """A ColumnTransformer with imputation, scaling and one-hot columns in front of an estimator."""
    frame, target = table()
    transformer = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "height", "income"]),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("grade", OneHotEncoder(handle_unknown="ignore"), ["grade"]),
        ]
    )
    pipeline = make_pipeline(transformer, last).fit(frame, target)
    types = [(name, FloatTensorType([None, 1])) for name in ("age", "height", "income")]
    types += [("city", StringTensorType([None, 1])), ("grade", Int64TensorType([None, 1]))]
    proto = convert_sklearn(pipeline, initial_types=types, options={id(last): {"zipmap": False}})
    dtypes = {"city": object, "grade": np.int64}
    return ready(proto, {name: frame[[name]].to_numpy(dtypes.get(name, np.float32)) for name in frame})


@case(SOURCE)
def columns_of_several_kinds() -> Made:
    return columns(LogisticRegression())


@case(SOURCE)
def columns_of_several_kinds_and_trees() -> Made:
    return columns(RandomForestClassifier(4, max_depth=3, random_state=0))
