import pytest

from scaling import summary
from scaling.errors import DataError
from scaling.measurements import Table
from scaling.points import select


def table(*rows):
  return Table(list(rows), [f"m.csv:{i + 2}" for i in range(len(rows))], [], ["m.csv"])


def rows(**extra):
  return [
    {"train_flops": 10.0**k, "test_error": 0.5 / k, "model": f"m{k}"} | extra
    for k in (1, 2, 3, 4, 5)
  ]


def test_defaults():
  points = select(table(*rows()))
  assert points.names == {"x": "train_flops", "y": "test_error", "group": "model"}
  assert points.x.tolist() == [1e1, 1e2, 1e3, 1e4, 1e5]
  assert points.notes == []


def test_missing_column_lists_the_numeric_ones():
  with pytest.raises(
    DataError,
    match=r"no column 'test_err', did you mean 'test_error'\? "
    r"\(numeric columns: train_flops, test_error;.*--y\)",
  ):
    select(table(*rows()), y="test_err")


def test_mid_training_lines_only_without_final_ones():
  final, mid = rows(final=True), rows(final=False)
  points = select(table(*final, *mid))
  assert len(points) == 5
  assert "5 mid-training lines" in points.notes[0]
  points = select(table(*mid))
  assert len(points) == 5
  assert "no line has final=true" in points.notes[0]


@pytest.mark.parametrize(
  ("true", "false"), [("True", "False"), ("true", "false"), ("1", "0"), ("1.0", "0.0"), (1, 0)]
)
def test_final_as_csv_files_and_spreadsheets_write_it(true, false):
  points = select(table(*rows(final=true), *rows(final=false)))
  assert points.place == [f"m.csv:{i + 2}" for i in range(5)]
  assert "5 mid-training lines" in points.notes[0]


def test_where_filters_numbers_and_text_and_names_the_nearest():
  data = table(*rows(metric="imagenet"), *rows(metric="pets"))
  with pytest.raises(DataError, match="column 'metric' mixes imagenet, pets.*--where metric="):
    select(data)
  assert len(select(data, where=["metric=pets"])) == 5
  assert len(select(data, where=["metric=pets", "train_flops=1e3"])) == 1
  with pytest.raises(DataError, match="did you mean 'pets'"):
    select(data, where=["metric=pet"])
  with pytest.raises(DataError, match="write column=value"):
    select(data, where=["metric"])


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"train_flops": 0.0, "test_error": 0.1}, "m.csv:7: train_flops is not positive"),
    ({"train_flops": -1.0, "test_error": 0.1}, "m.csv:7: train_flops is not positive"),
    ({"train_flops": 1e9, "test_error": "nan"}, "m.csv:7: test_error is not a finite number"),
    ({"train_flops": 1e9, "test_error": "n/a"}, "m.csv:7: test_error is not a finite number"),
    ({"train_flops": "inf", "test_error": 0.1}, "m.csv:7: train_flops is not a finite number"),
  ],
)
def test_unusable_rows_are_left_out_and_named(row, message):
  points = select(table(*rows(), row | {"model": "m9"}))
  assert len(points) == 5
  assert points.notes == [message + "; left out"]


def test_per_cent_is_refused_and_converted():
  data = table(*[row | {"test_error": 100 * row["test_error"]} for row in rows()])
  with pytest.raises(DataError, match="looks like per cent.*--convert percent"):
    select(data)
  assert select(data, convert="percent").y.max() == pytest.approx(0.5)


def test_accuracy_is_refused_and_converted():
  data = table(*[row | {"top1": 1 - row["test_error"]} for row in rows()])
  with pytest.raises(DataError, match="rises with scale.*--convert accuracy"):
    select(data, y="top1")
  assert select(data, y="top1", convert="accuracy").y.max() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["test_top5_error", "top1_err", "accuracy-error"])
def test_an_error_named_after_its_accuracy_is_an_error(name):
  data = table(*[row | {name: row["test_error"]} for row in rows()])
  assert select(data, y=name).y.max() == pytest.approx(0.5)
  data = table(*[row | {name: 100 * row["test_error"]} for row in rows()])
  with pytest.raises(DataError, match=r"\(--convert percent\)"):
    select(data, y=name)


def test_per_cent_of_what_may_be_an_accuracy_is_converted_as_the_user_says():
  data = table(*[row | {"top1": 100 - 100 * row["test_error"]} for row in rows()])
  with pytest.raises(DataError, match="--convert percent, or percent-accuracy if it rises"):
    select(data, y="top1")
  assert select(data, y="top1", convert="percent-accuracy").y.max() == pytest.approx(0.5)


def test_losses_above_one_are_not_per_cent():
  data = table(*[row | {"test_loss": 7.0} for row in rows()])
  assert select(data, y="test_loss").y.max() == 7


def test_duplicates_and_single_model_are_noted():
  points = select(table(*[row | {"model": "only"} for row in rows() + rows()[:1]]))
  assert points.notes == []
  twice, one = summary.groups(points)
  assert "1 value of train_flops occurs more than once" in twice
  assert "m.csv:2 and m.csv:7" in twice
  assert "all points are of one model (only)" in one


def test_pooled_curves_are_refused_unless_they_are_the_groups():
  data = table(*rows(curve="a"), *rows(curve="b"))
  with pytest.raises(DataError, match="column 'curve' mixes a, b"):
    select(data)
  assert set(select(data, group="curve").group) == {"a", "b"}
