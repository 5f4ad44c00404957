"""The exported page, in a headless Chromium: the predictions of the checkpoint, and no request."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.calibration.rejection import Rejection
from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import resize
from deepbloom.engine.checkpoint import read_model, write_tensors
from deepbloom.errors import DataError
from deepbloom.export import verify, web
from web_page import classify, open_page

pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")


@pytest.mark.parametrize("fit", ["crop", *(pytest.param(fit, marks=pytest.mark.long) for fit in ("squash", "pad"))])
def test_the_page_gives_the_predictions_of_the_checkpoint_without_a_request(
    fit: str,
    web_runtime: None,
    browser,
    trained_run: Path,
    images: Path,
    deepbloom: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "PASSES", 2)
    trained = read_model(trained_run)
    fields = trained.header | {"preprocessing": trained.header["preprocessing"] | {"fit": fit, "size": 96}}
    write_tensors(tmp_path / "model.safetensors", trained.network.state_dict(), fields)
    arguments = [f"ckpt={tmp_path / 'model.safetensors'}", f"image={images}", f"output_dir={tmp_path / 'web'}"]
    code, _, err = deepbloom("export", "format=web", *arguments)
    assert code == 0, err

    tab, requests = open_page(browser, tmp_path / "web" / "index.html")
    trained = read_model(tmp_path / "model.safetensors")
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 131, 4), np.uint8))
    wide.putalpha(255)
    wide.save(tmp_path / "wide.png")
    for path in [*sorted(images.rglob("*.png"))[::9], tmp_path / "wide.png"]:
        found = classify(tab, path)
        expected = trained.probabilities(resize(read_image(path), trained.preprocessing)[None])[0]
        assert found[0][0] == expected.argmax()
        for index, probability in found:
            assert probability == pytest.approx(expected[index], abs=1e-5)
    assert requests == [(tmp_path / "web" / "index.html").as_uri()]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_page_resizes_as_pillow_does_to_the_bit(interpolation: str, browser) -> None:
    """Noise of black and white, where bicubic weights overshoot; the control is the other interpolation."""
    tab = browser.new_page()
    tab.add_script_tag(content=web.read_source("preprocess.js"))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for width, height, part, target in (
        (131, 70, (0, 0, 131, 70), (96, 96)),
        (301, 200, (50.5, 0, 250.5, 200), (64, 64)),
        (20, 30, (0, 0, 20, 30), (64, 48)),
        (64, 64, (0, 0, 64, 64), (64, 64)),
    ):
        rgba = np.random.default_rng(width).integers(0, 2, (height, width, 4), np.uint8) * 255
        given = [base64.b64encode(rgba.tobytes()).decode(), width, height, part, target, interpolation]
        found = tab.evaluate(
            """([text, ...more]) => Array.from(resize(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), ...more))""",
            given,
        )
        found = np.array(found, np.uint8).reshape(*target[::-1], 3)
        image = Image.fromarray(np.ascontiguousarray(rgba[..., :3]))
        expected = {name: np.asarray(image.resize(target, kind, box=part)) for name, kind in filters.items()}
        np.testing.assert_array_equal(found, expected.pop(interpolation))
        assert (width, height) == target or (found != expected.popitem()[1]).any()
    tab.close()


def test_a_runtime_that_npm_did_not_publish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path))
    (tmp_path / web.RUNTIME).write_bytes(b"another")
    with pytest.raises(DataError, match="is not the file that npm published"):
        web.read_runtime()


def test_class_names_cannot_end_the_script(trained_run: Path) -> None:
    trained = read_model(trained_run)
    hostile = type(trained)(("</script><script>alert(1)",), trained.preprocessing, trained.header, trained.network)
    page = web.build_page(hostile, b"model", "const a=1;export{a as default};", b"binary")
    assert "</script><script>alert(1)" not in page


def test_the_page_says_none_of_these_below_the_threshold_of_predict(trained_run: Path) -> None:
    """The control has an error among its most confident predictions, so no target can be shown."""
    predictor = read_model(trained_run)
    confidences = np.linspace(1, 0.5, 1000)
    shown = {}
    for name, correct in (("right to 0.8", confidences > 0.8), ("control", np.arange(1000) % 2 == 1)):
        rejection = Rejection.from_validation(confidences, correct)
        header = predictor.header | {"rejection": rejection.as_header()}
        page = web.build_page(replace(predictor, header=header), b"model", "const a=1;export{a as default};", b"binary")
        shown[name] = json.loads(re.search(r'"threshold": ([^,}]*)', page)[1]), rejection.threshold(0.99)
    assert shown["right to 0.8"][0] == shown["right to 0.8"][1] == pytest.approx(0.8, abs=0.01)
    assert shown["control"] == (None, None)
