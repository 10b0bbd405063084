"""ONNX and Flax models in, pure JAX predict functions and their params out."""
