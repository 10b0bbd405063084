"""Gradient boosting libraries through their ONNX exporters, compared with onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import onnx
import xgboost
from model_cases_sklearn import classes, ready, targets
from model_registry import Made, case
from onnxmltools.convert import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

SMALL = {"n_estimators": 12, "max_depth": 4, "random_state": 0, "n_jobs": 1}


def _types(rows: Any) -> list[tuple[str, Any]]:
    return [("X", FloatTensorType([None, rows.shape[1]]))]


def _xgboost(model: Any, data: tuple[Any, Any], **options: Any) -> Made:
    model.fit(*data)
    proto = convert_xgboost(model, initial_types=_types(data[0]))
    return ready(proto, {"X": data[0]}, **options)


def _lightgbm(model: Any, data: tuple[Any, Any], **options: Any) -> Made:
    model.fit(*data)
    proto = convert_lightgbm(model, initial_types=_types(data[0]), zipmap=False)
    # The exporter states one row for the label, whatever the batch.
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    return ready(proto, {"X": data[0]}, **options)


def _catboost(model: Any, data: tuple[Any, Any]) -> Made:
    model.fit(*data)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        model.save_model(path, format="onnx")
        proto = onnx.load(path)
    for node in [node for node in proto.graph.node if node.op_type == "ZipMap"]:
        scores = next(value for value in proto.graph.output if value.name == node.output[0])
        proto.graph.output.remove(scores)
        proto.graph.node.remove(node)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], 1, None))
    return ready(proto, {"features": data[0]})


@case("xgboost, onnxmltools")
def xgboost_of_two_classes() -> Made:
    return _xgboost(xgboost.XGBClassifier(**SMALL), classes())


@case("xgboost, onnxmltools")
def xgboost_of_three_classes() -> Made:
    return _xgboost(xgboost.XGBClassifier(**SMALL), classes(3), tree_topology="public")


@case("xgboost, onnxmltools")
def xgboost_regression() -> Made:
    return _xgboost(xgboost.XGBRegressor(**SMALL), targets())


@case("lightgbm, onnxmltools")
def lightgbm_of_two_classes() -> Made:
    return _lightgbm(lightgbm.LGBMClassifier(n_estimators=12, verbose=-1, n_jobs=1), classes())


@case("lightgbm, onnxmltools")
def lightgbm_of_three_classes() -> Made:
    model = lightgbm.LGBMClassifier(n_estimators=6, num_leaves=12, verbose=-1, n_jobs=1)
    return _lightgbm(model, classes(3), tree_topology="public")


@case("lightgbm, onnxmltools")
def lightgbm_regression() -> Made:
    return _lightgbm(lightgbm.LGBMRegressor(n_estimators=12, verbose=-1, n_jobs=1), targets())


@case("catboost, its own exporter")
def catboost_of_two_classes() -> Made:
    return _catboost(
        catboost.CatBoostClassifier(iterations=10, depth=4, verbose=False, thread_count=1), classes()
    )


@case("catboost, its own exporter")
def catboost_of_three_classes() -> Made:
    return _catboost(
        catboost.CatBoostClassifier(iterations=8, depth=4, verbose=False, thread_count=1), classes(3)
    )


@case("catboost, its own exporter")
def catboost_regression() -> Made:
    return _catboost(
        catboost.CatBoostRegressor(iterations=10, depth=4, verbose=False, thread_count=1), targets()
    )
