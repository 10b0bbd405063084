"""scikit-learn pipelines through skl2onnx, compared with onnxruntime (scores within 1e-5, labels exactly)."""

import jax
import numpy as np
import onnxruntime
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters import from_onnx


def _classifier(kind, classes, labels):
    features, target = make_classification(
        200, 30, n_informative=10, n_classes=classes, random_state=0, shuffle=True
    )
    target = np.array(labels)[target]
    estimator = (
        LogisticRegression() if kind == "linear" else MLPClassifier((16,), max_iter=30, random_state=0)
    )
    pipeline = make_pipeline(StandardScaler(), estimator)
    return pipeline.fit(features, target), features.astype(np.float32)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("labels", [[5, 7], ["no", "yes"], [4, 2, 9], ["a", "b", "c"]])
@pytest.mark.parametrize("zipmap", [True, False])
def test_labels_and_scores_agree_with_onnxruntime(kind, labels, zipmap):
    """Labels, integers or strings, and scores come out as onnxruntime gives them, ZipMap or not."""
    pipeline, features = _classifier(kind, len(labels), labels)
    proto = to_onnx(pipeline, features[:1], options={"zipmap": zipmap})
    label, scores = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"X": features})
    if zipmap:
        scores = np.array([[row[name] for name in sorted(labels)] for row in scores])
    model = from_onnx(proto)
    found_label, found_scores = model.predict(model.params, features)
    assert (np.asarray(found_label) == label).all()
    np.testing.assert_allclose(found_scores, scores, atol=1e-5)
    assert [spec.shape for spec in model.outputs] == [(None,), (None, len(labels))]


def test_predict_works_under_jit_at_any_batch_size():
    """The batch size is not part of the model: one conversion serves all of them."""
    pipeline, features = _classifier("mlp", 2, [0, 1])
    model = from_onnx(to_onnx(pipeline, features[:1], options={"zipmap": False}))
    for batch in (1, 3, 8):
        label, scores = jax.jit(model.predict)(model.params, features[:batch])
        assert label.shape == (batch,)
        np.testing.assert_allclose(scores, pipeline.predict_proba(features[:batch]), atol=1e-5)
