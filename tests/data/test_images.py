import io
import os
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepbloom.data import images as image_files
from deepbloom.data.images import map_ahead, read_image
from deepbloom.errors import DataError, name_some


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_accepted_formats_are_read_as_rgb(tmp_path, kind):
    path = save(Image.new("RGB", (20, 10), (200, 100, 50)), tmp_path / "image", format=kind)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))
    np.testing.assert_allclose(np.asarray(image)[5, 5], (200, 100, 50), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_whatever_their_suffix(tmp_path, kind):
    path = save(Image.new("RGB", (20, 20)), tmp_path / "image.jpg", format=kind)
    with pytest.raises(DataError, match="JPEG, PNG or WEBP"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_refused_and_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "cut.bin", format=kind)
    read_image(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"cut\.bin"):
        read_image(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            read_image(path)
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "absent.jpg")


def test_a_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (40, 30)), tmp_path / "large.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1199)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="40 x 30 pixels are more than 1,199"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_a_gigantic_image_is_refused(tmp_path):
    content = io.BytesIO()
    Image.new("1", (16, 16)).save(content, "PNG")
    header = bytearray(content.getvalue())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(header)
    with pytest.raises(DataError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: left goes up
    upright = read_image(save(image, tmp_path / "turned.png", exif=exif))
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (0, 0, 255)
    assert upright.getpixel((5, 17)) == (255, 0, 0)


def test_transparency_lies_on_white(tmp_path):
    rgba = save(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), tmp_path / "rgba.png")
    half = save(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), tmp_path / "half.png")
    gray = save(Image.new("LA", (4, 4), (0, 0)), tmp_path / "la.png")
    palette = save(Image.new("P", (4, 4), 0), tmp_path / "p.png", transparency=0)
    assert read_image(rgba).getpixel((1, 1)) == (255, 255, 255)
    assert read_image(half).getpixel((1, 1)) == pytest.approx((127, 127, 127), abs=1)
    assert read_image(gray).getpixel((1, 1)) == (255, 255, 255)
    assert read_image(palette).getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path):
    ramp = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = read_image(save(Image.fromarray(ramp), tmp_path / "deep.png"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_cmyk_becomes_rgb(tmp_path):
    path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=95)
    np.testing.assert_allclose(np.asarray(read_image(path))[8, 8], (255, 0, 0), atol=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_file_is_read_or_refused_but_never_fails_otherwise(tmp_path, kind, changes):
    content = io.BytesIO()
    Image.new("RGB", (12, 12), "orange").save(content, kind)
    damaged = bytearray(content.getvalue())
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    (tmp_path / "damaged").write_bytes(damaged)
    with suppress(DataError):
        assert read_image(tmp_path / "damaged").mode == "RGB"


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_mapping_ahead_keeps_order_and_passes_errors_on(num_workers):
    assert list(map_ahead(lambda x: x * x, range(50), num_workers)) == [x * x for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda x: 1 / (x - 3), range(50), num_workers))


def test_mapping_ahead_does_not_run_far_ahead():
    begun: list[int] = []
    results = map_ahead(begun.append, range(1000), 2)
    next(results)
    assert len(begun) < 20


def test_long_lists_are_cut_and_counted():
    assert name_some(["a"]) == "a"
    assert name_some(["a", "b", "c"]) == "a, b, c"
    assert name_some([str(number) for number in range(1003)]) == "0, 1, 2 and 1,000 more"
