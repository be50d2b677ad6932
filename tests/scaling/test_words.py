import pytest

from scaling.words import figure, label


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (66607.0, "6.66e+04"),
    (9615.4, "9615"),
    (0.12345, "0.123"),
    (0.0001, "1.00e-04"),
    (0.0, "0"),
    (None, "-"),
    (float("inf"), "inf"),
  ],
)
def test_figures_show_the_digits_that_were_asked_for(value, text):
  assert figure(value) == text


@pytest.mark.parametrize(
  ("column", "text"),
  [
    ("train_flops", "training FLOPs"),
    ("test_error", "test error"),
    ("Seen Examples", "Seen Examples"),
    ("_", "_"),
  ],
)
def test_axes_are_labelled_in_words(column, text):
  assert label(column) == text
