import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile

from deepbloom import file_warnings
from deepbloom.data import images as image_files
from deepbloom.data.images import UnreadableError, map_ahead, read_image, upright_rgb
from deepbloom.errors import DataError, name_some


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "HEIF"])
def test_accepted_formats_are_read_as_rgb_whatever_their_suffix(tmp_path, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = save(Image.new("RGB", (20, 10), (200, 100, 50)), tmp_path / "image", format=kind)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))
    np.testing.assert_allclose(np.asarray(image)[5, 5], (200, 100, 50), atol=3)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000", "EPS"])
def test_other_formats_are_refused_whatever_their_suffix(tmp_path, kind):
    path = save(Image.new("RGB", (20, 20)), tmp_path / "image.jpg", format=kind)
    with pytest.raises(DataError, match=r"not a JPEG, PNG, .* or HEIC image"):
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


GRAY = np.array([[0, 100, 255]], np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        Image.fromarray(GRAY.astype(">u2") * 257),
        Image.fromarray(GRAY.astype(np.int32) * 257),
        Image.fromarray(GRAY.astype(np.int32)),
        Image.fromarray(GRAY.astype(np.float32) / 255),
        Image.fromarray(GRAY.astype(np.float32)),
        Image.fromarray(GRAY.astype(np.float32) * 257),
    ],
    ids=["16 bits", "16 bits big-endian", "32 bits", "32 bits, 8 used", "float to 1", "float to 255", "float to 65535"],
)
def test_deep_gray_is_scaled_and_not_clipped(image, tmp_path):
    for found in (upright_rgb(image), read_image(save(image, tmp_path / "deep.tif"))):
        assert np.asarray(found).tolist() == [[[0, 0, 0], [100, 100, 100], [255, 255, 255]]]


def test_a_dark_image_of_16_bits_stays_dark_and_what_is_no_number_is_black():
    assert upright_rgb(Image.fromarray(np.full((2, 2), 257, np.uint16))).getpixel((0, 0)) == (1, 1, 1)
    odd = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 1]], np.float32))
    assert [upright_rgb(odd).getpixel((x, 0))[0] for x in range(4)] == [0, 0, 0, 255]
    assert upright_rgb(Image.fromarray(np.zeros((1, 1), np.float32))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_an_image_of_any_mode_becomes_rgb_and_stays_as_it_was(mode):
    original = Image.new("RGB", (4, 4), "white")
    image = original.convert("LA").convert(mode) if mode == "La" else original.convert(mode)
    if mode == "RGBa":
        image = original.convert("RGBA").convert(mode)
    image.info["kept"] = "x"
    np.testing.assert_allclose(np.asarray(upright_rgb(image)), 255, atol=3)
    assert (image.mode, image.info["kept"]) == (mode, "x")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_pil_image_is_read_as_its_file(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP"):
        path = save(noise, tmp_path / "noise", format=kind, exif=exif)
        with Image.open(path) as opened, Image.open(path) as loaded, Image.open(path) as converted:
            loaded.load()
            for image in (opened, loaded, converted.convert("RGB")):
                assert np.array_equal(np.asarray(upright_rgb(image)), np.asarray(read_image(path)))
            assert opened.size == (40, 30)


def test_a_large_jpeg_is_reduced_while_both_sides_keep_enough_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "REDUCED_SIDE", 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    for size, found in (((31, 200), (31, 200)), ((32, 200), (16, 100)), ((70, 64), (18, 16)), ((999, 999), (125, 125))):
        path = save(Image.new("RGB", size, "teal"), tmp_path / "large.jpg", exif=exif)
        image = read_image(path)
        assert image.size == found[::-1]
        np.testing.assert_allclose(np.asarray(image), np.broadcast_to((0, 128, 128), (*image.size[::-1], 3)), atol=3)
        assert image_files.decode(path.read_bytes(), full_size=True).size == size[::-1]
        with Image.open(path) as opened:
            assert np.array_equal(np.asarray(upright_rgb(opened)), np.asarray(image))
            assert opened.size == size
    assert read_image(save(Image.new("RGB", (999, 999)), tmp_path / "large.png")).size == (999, 999)


def test_images_of_ordinary_cameras_are_not_reduced(tmp_path):
    path = save(Image.new("L", (6000, 4000)), tmp_path / "24 megapixels.jpg")
    assert read_image(path).size == (6000, 4000)


# What an image needs that is not there, and what the machine fails at


def test_a_heic_image_without_its_package_names_the_extra(tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = save(Image.new("RGB", (20, 10)), tmp_path / "phone.heic", format="HEIF")
    before = image_files.decoder()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        patch.setattr("importlib.metadata.version", not_installed)
        image_files.register_heif.cache_clear()
        with pytest.raises(UnreadableError, match=r"phone\.heic.*pip install 'deepbloom\[heic\]'"):
            read_image(path)
        assert image_files.decoder() != before  # so that the verdict is not remembered when it is installed
    image_files.register_heif.cache_clear()
    assert read_image(path).size == (20, 10)


def not_installed(package: str) -> str:
    raise PackageNotFoundError(package)


def test_a_film_is_no_heic_image(tmp_path):
    (tmp_path / "film.heic").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(100))
    with pytest.raises(UnreadableError, match="HEIC image, or its beginning is damaged"):
        read_image(tmp_path / "film.heic")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "too many open files"),
        OSError(errno.EIO, "I/O error"),
        OSError(errno.ENOMEM, "cannot allocate memory"),
        OSError("out of memory error when reading image file"),
    ],
)
def test_a_momentary_failure_to_decode_is_no_verdict(error, tmp_path, monkeypatch):
    path = save(Image.new("RGB", (20, 10)), tmp_path / "sound.png")

    def fail(*_: object, **__: object) -> object:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", fail)
        patch.setattr(PngImageFile, "load", fail)
        with pytest.raises(DataError) as raised:
            read_image(path)
    assert not isinstance(raised.value, UnreadableError)
    assert read_image(path).size == (20, 10)


def test_a_decoder_that_calls_lack_of_memory_damage_is_not_believed(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (20, 10)), tmp_path / "sound.webp")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError):
        read_image(path)
    monkeypatch.setattr(image_files, "ENOUGH_MEMORY", 1 << 60)
    with pytest.raises(DataError, match="not enough memory") as raised:
        read_image(path)
    assert not isinstance(raised.value, UnreadableError)


def test_a_file_that_fails_once_is_read_at_the_second_try(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (20, 10)), tmp_path / "a.png")
    failures = [OSError(errno.EIO, "I/O error")]

    def opening(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return open(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(image_files, "RETRY_SECONDS", 0)
    monkeypatch.setattr(image_files, "open", opening, raising=False)
    assert read_image(path).size == (20, 10)
    failures += [OSError(errno.EIO, "I/O error")] * 2
    with pytest.raises(DataError, match="i/o error"):
        read_image(path)


# Warnings


def test_a_warning_of_a_decoder_names_the_file_once(tmp_path, monkeypatch, caplog):
    def warn(self: Image.Image) -> None:
        warnings.warn("Odd palette", stacklevel=1)

    paths = [save(Image.new("RGB", (20, 10)), tmp_path / name) for name in ("first.gif", "second.gif")]
    monkeypatch.setattr(GifImageFile, "load_end", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        file_warnings.install()
        for path in paths * 2:
            read_image(path)
        warnings.warn("About no file", stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == [f"image '{paths[0]}': Odd palette"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"]),
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
