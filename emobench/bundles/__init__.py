"""A fitted model with all that it needs to predict from audio, as ONNX."""

import os

# From version 1.29 on, importing ONNX Runtime starts to report sessions and hashes of models to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
