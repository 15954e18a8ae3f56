"""Bundles for tests, exported as a run exports them."""

from emobench.bundles.export import export
from emobench.bundles.manifest import describe
from emobench.bundles.storage import Bundle
from emobench.features import get_features
from emobench.models import get_model
from emobench.registry import resolve

SPEC = get_features("mfcc40")


def bundle_of(estimator, X, *, model, classes, **about):
    """Return the bundle of a pipeline that was fitted on X; `about` are fields of its manifest."""
    converter = resolve(get_model(model).converter)
    onnx, parity = export(estimator, X, n_classes=len(classes), converter=converter)
    content = {
        "identity": "0123abcd",
        "entry": model,
        "features": SPEC.specification(),
        "sr": SPEC.sr,
        "trained_on": {"corpus": "ravdess", "mono": "mean"},
        **about,
    }
    has_probabilities = parity.max_difference is not None
    manifest = describe(
        n_features=X.shape[1], classes=classes, has_probabilities=has_probabilities, model=model, **content
    )
    return Bundle.of(manifest, onnx)


def changed(bundle, **fields):
    """Return a bundle whose manifest says something else."""
    return Bundle.of(bundle.manifest.model_copy(update=fields), bundle.files["model.onnx"])
