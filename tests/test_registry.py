"""Parts by name: what a registry finds, builds, refuses, and imports from outside the package."""

import dataclasses
import sys

import pytest

from pcdiff.errors import InputError
from pcdiff.registry import Registry
from pcdiff.runtime.user_modules import load_attribute, place_of

OUTSIDE = '''
from __future__ import annotations
import dataclasses


class Net:
    """Takes its options as parameters."""

    def __init__(self, width: int = 4, *, deep: bool = False):
        self.width, self.deep = width, deep


class Configured:
    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int = 4
        widths: tuple[int, ...] = ()

    def __init__(self, config, *beside):
        self.config, self.beside = config, beside


number = 3
'''


@dataclasses.dataclass(frozen=True)
class SquareConfig:
    """Options of `Square`."""

    side: float = 1.0
    colors: tuple[str, ...] = ("red",)


class Square:
    """Made of a `Config`."""

    Config = SquareConfig
    corners = 4

    def __init__(self, config, where=0):
        self.config, self.where = config, where


def circle(radius: float, filled: bool = False):
    return ("circle", radius, filled)


@pytest.fixture
def shapes():
    return Registry("shape", {"square": Square, "circle": circle}, aliases={"disc": "circle", "box": "square"})


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_shapes.py"
    path.write_text(OUTSIDE)
    yield path
    sys.modules.pop("my_shapes", None)


def test_it_is_a_mapping_that_lists_no_alias(shapes):
    assert sorted(shapes) == ["circle", "square"]
    assert len(shapes) == 2
    assert "disc" in shapes
    assert shapes["disc"] is circle
    assert shapes.get("line") is None
    shapes["line"] = lambda: "line"
    assert shapes.build("line") == "line"
    del shapes["line"]
    assert "line" not in shapes
    assert shapes.canonical("disc") == "circle"
    assert shapes.name_of(circle) == "circle"
    assert shapes.name_of(len) is None


def test_options_are_a_configs_fields_or_a_signatures_parameters(shapes):
    assert shapes.options("box") == ["side", "colors"]
    assert shapes.options("circle") == ["radius", "filled"]
    built = shapes.build("square", 7, side=2.0, colors=("blue", "red"))
    assert (built.config, built.where) == (SquareConfig(2.0, ("blue", "red")), 7)
    assert shapes.config("square", colors=["blue"]) == SquareConfig(colors=("blue",))  # as JSON has it
    assert shapes.build("disc", radius=2.0) == ("circle", 2.0, False)
    assert shapes.build("circle", 2.0, filled=True) == ("circle", 2.0, True)
    assert shapes.facts("corners") == {"square": {"corners": 4}, "circle": {"corners": None}}


def test_parameters_that_the_caller_gives_are_no_options():
    losses = Registry("loss", {"power": lambda x, *, p=2: x**p}, given=("x",))
    assert losses.options("power") == ["p"]
    assert losses.bind("power", p=3)(2) == 8
    with pytest.raises(InputError, match=r"loss 'power' takes \['p'\], got \['x'\]"):
        losses.bind("power", x=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.build("line"), r"shape must be one of circle, square, got 'line'"),
        (lambda r: r.build(None), "shape must be one of .* got None"),
        (lambda r: r.build("circle"), r"shape 'circle' needs \['radius'\]"),
        (lambda r: r.build("circle", radius=1.0, side=2), r"'circle' takes \['radius', 'filled'\], got \['side'\]"),
        (lambda r: r.build("circle", radius="a"), "radius must be a number, got 'a'"),
        (lambda r: r.build("square", side="a"), "shape 'square': side must be float, got 'a'"),
        (lambda r: r.build("square", radius=1.0), r"unknown fields \['radius'\] .*known: \['colors', 'side'\]"),
        (lambda r: r.config("circle"), "'circle' has no Config; its options are"),
        (lambda r: r.build("my_shapes.py:Net"), "comes from outside the package"),
        (lambda r: r.register("circle")(Square), "shape 'circle' is taken, by .*circle; choose another name"),
        (lambda r: r.register("ring", "disc")(Square), "shape 'disc' is taken"),
        (lambda r: r.resolve("other.py:Net"), r"shape other.py:Net: no such \.py file"),
        (lambda r: r.resolve("my_shapes.py:Nett"), "no Nett there; there is Configured, Net$"),
        (lambda r: r.resolve("my_shapes.py:number"), "must be a class or a function, got a int"),
        (
            lambda r: r.resolve("no.such.module:Net"),
            "no.such.module:Net: ModuleNotFoundError: No module named 'no'",
        ),
        (lambda r: r.resolve("my_shapes.py"), "must be one of"),
        (lambda r: load_attribute("my_shapes.py", "shape"), "must be FILE.py:NAME or MODULE:NAME"),
    ],
)
def test_what_does_not_fit_is_one_line(shapes, file, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(shapes)
    assert "\n" not in str(caught.value)


def test_a_decorator_registers_and_the_same_file_may_do_so_twice(shapes):
    for _ in range(2):

        @shapes.register("ring", "annulus")
        def ring(inner: float = 0.5):
            return inner

    assert shapes.build("annulus") == 0.5
    assert sorted(shapes) == ["circle", "ring", "square"]


def test_a_class_from_a_file(shapes, file):
    place = "my_shapes.py:Net"
    net = shapes.resolve(place)
    assert shapes.resolve(place) is net
    assert load_attribute(f"{file}:Net", "shape") is net
    assert shapes.build(place, width=2).width == 2
    assert shapes.name_of(net) == place
    assert place not in sorted(shapes)
    assert load_attribute(place_of(net), "shape") is net
    with pytest.raises(InputError, match="takes \\['width', 'deep'\\], got \\['depth'\\]"):
        shapes.build(place, depth=1)
    configured = shapes.resolve("my_shapes.py:Configured")
    built = shapes.build("my_shapes.py:Configured", "beside", widths=[1, 2])  # its annotations are texts
    assert isinstance(built, configured)
    assert (built.config.widths, built.beside) == ((1, 2), ("beside",))
    with pytest.raises(InputError, match="width must be int, got 'a'"):
        shapes.build("my_shapes.py:Configured", width="a")


def test_a_changed_file_gives_its_new_class(shapes, file):
    first = shapes.resolve("my_shapes.py:Net")
    # of the same length, within the same second
    file.write_text(OUTSIDE.replace("width: int = 4, *", "width: int = 5, *"))
    again = Registry("shape").resolve("my_shapes.py:Net")
    assert (first().width, again().width) == (4, 5)


def test_a_file_that_fails_is_told_with_its_line(shapes, tmp_path):
    (tmp_path / "bad.py").write_text("import math\n\nraise KeyError('two\\nlines')\n")
    (tmp_path / "worse.py").write_text("def (\n")
    with pytest.raises(InputError, match=r"bad.py:Net, line 3: KeyError: ") as caught:
        shapes.resolve(f"{tmp_path}/bad.py:Net")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"worse.py:Net: SyntaxError: "):
        shapes.resolve(f"{tmp_path}/worse.py:Net")


def test_where_things_come_from():
    def within():
        """In a function."""

    assert place_of(Registry) == "pcdiff.registry:Registry"
    assert load_attribute("pcdiff.registry:Registry", "thing") is Registry
    assert place_of(within) is None
    written = type("Written", (), {"__module__": "__main__"})  # as in a notebook
    assert place_of(written) is None
