"""What the app's own pages ask over HTTP. What changes anything needs the page's key (safety.py)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute

from visalign.images import ImageError

from .desk import Desk
from .safety import Refused

Field = Annotated[str, Body()]
LOOK = {"css": "text/css", "js": "text/javascript"}
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}  # the name is a hash of what made the picture
NEVER = {"cache-control": "no-store"}
HEX = frozenset("0123456789abcdef")


class Told(APIRoute):
    """A route whose refusals are one sentence of JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with refusals as answers."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except (Refused, ImageError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)

        return told


def router(desk: Desk) -> APIRouter:
    """Every route of the pages."""
    made = APIRouter(route_class=Told)
    made.include_router(_look())
    for part in (_grid, _vote, _board, _answers, _runs):
        made.include_router(part(desk), prefix="/desk")
    return made


def _look() -> APIRouter:
    """Style and scripts: the files that ship beside this one, by name."""
    made = APIRouter()
    folder = resources.files("visalign.apps")
    files = {
        each.name: (each.read_bytes(), LOOK[each.name.rpartition(".")[2]])
        for each in folder.iterdir()
        if each.name.rpartition(".")[2] in LOOK
    }

    @made.get("/look/{name}")
    def look(name: str) -> Response:
        if name not in files:
            return JSONResponse({"error": "no such file"}, status_code=404)
        content, kind = files[name]
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})

    return made


def _grid(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=Told)

    @made.get("/about")
    def about() -> dict[str, Any]:
        return desk.about()

    @made.get("/grid")
    def grid(start: int = 0, count: int = 8, find: str = "") -> dict[str, Any]:
        return desk.grid(start, count, find)

    @made.get("/proof")
    def proof(prompt: str, seed: int) -> list[dict[str, Any]]:
        return desk.proofs(prompt, seed)

    @made.get("/picture/{key}")
    def picture(key: str) -> Response:
        if not key or not HEX.issuperset(key) or not desk.pool.path(key).is_file():
            raise Refused("no such picture")
        return Response(desk.pool.path(key).read_bytes(), media_type=desk.pool.media_type, headers=FOREVER)

    @made.post("/draw")
    def draw(prompt: Field, seeds: Annotated[int, Body()] = 1) -> dict[str, str]:
        return {"prompt": desk.ask(prompt, seeds)}

    @made.post("/admit")
    def admit() -> dict[str, str]:
        desk.admit()
        return {}

    return made


def _vote(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=Told)

    @made.post("/trial")
    def trial(rater: Field, again: Field = "") -> dict[str, Any]:
        name = desk.rater(rater)
        return desk.shown(desk.booth.next(name, again), name)

    @made.get("/blind/{name}")
    def blind(name: str) -> Response:
        return Response(desk.booth.picture(name).read_bytes(), media_type=desk.pool.media_type, headers=NEVER)

    @made.post("/vote")
    def vote(
        trial: Field, rater: Field, said: Field, aspects: Annotated[dict[str, str] | None, Body()] = None
    ) -> dict[str, Any]:
        return desk.revealed(desk.booth.vote(trial, desk.rater(rater), said, aspects))

    @made.post("/skip")
    def skip(trial: Field, rater: Field) -> dict[str, str]:
        desk.booth.skip(trial, desk.rater(rater))
        return {}

    @made.post("/undo")
    def undo(rater: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        name = desk.rater(rater)
        return desk.shown(desk.booth.undo(name), name)

    return made


def _board(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=Told)

    @made.get("/board")
    def board(aspect: str = "overall", rater: str = "") -> dict[str, Any]:
        return desk.board(aspect, rater)

    @made.get("/export/{kind}")
    def export(kind: str) -> Response:
        path = desk.exported(kind)
        return FileResponse(path, filename=path.name, headers=NEVER)

    @made.post("/taste")
    def taste(rater: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        return desk.taste(desk.rater(rater))

    @made.post("/recipe")
    def recipe() -> dict[str, str]:
        return desk.recipe()

    return made


def _answers(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=Told)

    @made.get("/answers/{number}")
    def answers(number: int) -> dict[str, Any]:
        if desk.answers is None:
            raise Refused("no answers were given; start the app with --answers FILE.jsonl")
        if not 0 <= number < len(desk.answers.questions):
            raise Refused(f"there are {len(desk.answers.questions)} questions")
        return desk.answers.shown(number)

    @made.get("/answers/{number}/image")
    def image(number: int) -> Response:
        if desk.answers is None or not 0 <= number < len(desk.answers.questions):
            raise Refused("no such image")
        return Response(desk.answers.picture(number), media_type="image/png", headers=NEVER)

    return made


def _runs(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=Told)

    @made.get("/runs")
    def runs() -> list[dict[str, Any]]:
        return desk.runs.listed()

    @made.get("/run")
    def run(name: str, after: int = 0) -> dict[str, Any]:
        return desk.runs.shown(name, after)

    @made.get("/sheet")
    def sheet(name: str, file: str) -> Response:
        return Response(desk.runs.sheet(name, file).read_bytes(), media_type="image/png", headers=NEVER)

    return made
