"""The web application. It makes no network requests."""

import html
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deepbloom.calibration.rejection import NONE
from deepbloom.data.samples import ATTRIBUTION, sample_images
from deepbloom.demo.guard import Guard
from deepbloom.demo.predictions import PREDICTED, Network, class_names, draw_result, predict_image
from deepbloom.demo.uploads import MAX_BYTES, UploadQueue, UploadRefused
from deepbloom.errors import DataError, DeepBloomError
from deepbloom.explain.methods import METHODS

DEFAULT_METHOD = "gradcam"


def build_app(networks: Sequence[Network], port: int, queue: UploadQueue | None = None, token: str = "") -> ASGIApp:
    """Return the ASGI application: the page, its script, style sheet and examples, and what it posts images to.

    ``POST /predict`` gives the values that the page shows, ``POST /figure`` one image of them.

    Parameters
    ----------
    networks : sequence of Network
        Shown side by side.
    port : int
        The port it is served on.
    queue : UploadQueue, optional
    token : str
        See `Guard`.
    """
    uploads = queue or UploadQueue()
    examples = _find_examples()

    async def predict(request: Request) -> Response:
        return await answer(request, lambda content: JSONResponse(predict_image(content, *choices(request))))

    async def figure(request: Request) -> Response:
        name = request.query_params.get("name", "")
        return await answer(request, lambda content: _png(draw_result(content, *choices(request), name)))

    def choices(request: Request) -> tuple[Sequence[Network], str, str]:
        query = request.query_params
        return networks, query.get("method", DEFAULT_METHOD), query.get("target", PREDICTED)

    async def answer(request: Request, work: Callable[[bytes], Response]) -> Response:
        try:
            return await uploads.process(request, work)
        except ClientDisconnect:
            return JSONResponse({"error": "The upload was interrupted."}, 400)
        except UploadRefused as error:
            return JSONResponse({"error": str(error)}, error.status)
        except DeepBloomError as error:
            return JSONResponse({"error": str(error)}, 422)

    routes = [
        _static("/", build_page(networks, examples), "text/html"),
        _static("/page.css", _read("page.css"), "text/css"),
        _static("/page.js", _read("page.js"), "text/javascript"),
        *(_file(f"/examples/{number}", path) for number, path in enumerate(examples)),
        Route("/predict", predict, methods=["POST"]),
        Route("/figure", figure, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return Guard(app, port, token)


def build_page(networks: Sequence[Network], examples: Sequence[Path] = ()) -> str:
    """Return the HTML of the page with its examples, the choices of method and class, and what each network knows."""
    methods = ((name, f"{m.title} (slow)" if m.is_slow else m.title) for name, m in METHODS.items())
    targets = [(PREDICTED, "predicted class"), *((name, name) for name in class_names(networks))]
    return Template(_read("page.html")).substitute(
        max_bytes=MAX_BYTES,
        max_megabytes=f"{MAX_BYTES / 1e6:g}",
        methods=_options(methods, DEFAULT_METHOD),
        targets=_options(targets, PREDICTED),
        heatmaps="" if any(network.has_heatmaps for network in networks) else "hidden",
        examples="\n".join(_example(number, path) for number, path in enumerate(examples)),
        attribution=html.escape(ATTRIBUTION),
        known="\n".join(map(_known, networks)),
    )


def _find_examples() -> list[Path]:
    try:
        return sample_images()
    except DataError:  # they are drawn into the cache folder, and the page works without them
        return []


def _example(number: int, path: Path) -> str:
    name = html.escape(path.name)
    return f'<button class="example"><img src="examples/{number}" alt="{name}" title="{name}"></button>'


def _known(network: Network) -> str:
    """Return what a network knows, and when it says that an image is none of these."""
    judge = network.judge
    sentences = [f"Model: {network.trained.label}."]
    if judge.target is not None:
        sentences.append(
            f"At least {100 * judge.target:g} % of the predictions that it accepts are correct, with 95 % confidence, "
            f"for images like those of its validation. All others are “{NONE}”."
        )
    if judge.training is not None:
        sentences.append(f"An image unlike its training images is “{NONE}”.")
    classes = "".join(f"<li>{html.escape(name)}</li>" for name in sorted(network.trained.classes))
    return (
        f"<details><summary>{html.escape(network.name)} knows {len(network.trained.classes)} classes</summary>"
        f"<p>{html.escape(' '.join(sentences))}</p><ul>{classes}</ul></details>"
    )


def _options(choices: Iterable[tuple[str, str]], selected: str) -> str:
    return "\n".join(
        f'<option value="{html.escape(value)}"{" selected" if value == selected else ""}>{html.escape(title)}</option>'
        for value, title in choices
    )


def _read(name: str) -> str:
    return files("deepbloom.demo").joinpath(name).read_text(encoding="utf-8")


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


def _file(route: str, path: Path) -> Route:
    return Route(route, lambda _: FileResponse(path))


def _static(path: str, text: str, media_type: str) -> Route:
    return Route(path, lambda _: Response(text, media_type=media_type))
