import pytest

from vit_jax.data import calls
from vit_jax.errors import UserError


def test_reads_names_calls_and_literals():
  text = "a | b(1, -2.5, x='y') | c(mean=(0.1, 0.2), on=True)|d()"
  assert calls.parse(text, "t") == [
    ("a", (), {}),
    ("b", (1, -2.5), {"x": "y"}),
    ("c", (), {"mean": (0.1, 0.2), "on": True}),
    ("d", (), {}),
  ]


def test_empty_text_has_no_calls():
  assert calls.parse("  ", "t") == []


@pytest.mark.parametrize("text", ["a(", "a||b", "a & b", "1", "a.b(1)", "a(1)(2)", "'a'", "a\0b"])
def test_refuses_other_syntax(text):
  with pytest.raises(UserError, match="transforms"):
    calls.parse(text, "transforms")


@pytest.mark.parametrize("text", ["a(__import__('os'))", "a(b)", "a(x=1+q)", "a(*[1])", "a(**{})"])
def test_arguments_are_never_evaluated(text):
  with pytest.raises(UserError, match="must be plain numbers"):
    calls.parse(text, "transforms")


def _crop(size: int, share: float = 0.5, mode: str = "zero", on: bool = False):
  if size < 1:
    raise ValueError("size must be positive")
  return size, share, mode, on


def test_applies_arguments_and_takes_whole_numbers_as_floats():
  assert calls.apply(_crop, ("crop", (3,), {"share": 1}), "t") == (3, 1.0, "zero", False)


@pytest.mark.parametrize(
  ("args", "kwargs", "message"),
  [
    ((), {}, "missing a required argument: 'size'"),
    ((1,), {"sise": 2}, "unexpected keyword argument 'sise'"),
    ((1.5,), {}, "size=1.5 must be of type int"),
    ((True,), {}, "size=True must be of type int"),
    ((1,), {"mode": 3}, "mode=3 must be of type str"),
    ((0,), {}, "size must be positive"),
  ],
)
def test_wrong_arguments_give_one_line_with_the_usage(args, kwargs, message):
  with pytest.raises(UserError, match=message) as e:
    calls.apply(_crop, ("crop", args, kwargs), "transform")
  assert "it takes crop(size: int, share: float = 0.5" in str(e.value)
  assert "\n" not in str(e.value)
