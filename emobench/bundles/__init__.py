"""A fitted model with all that it needs to predict from audio, as ONNX."""
