import json

import numpy as np
import pytest

from scaling import compare, decide, fit, lawfile, laws, predict
from scaling.errors import DataError
from scaling.points import Points

TRUTH = np.array([0.6, 0.3, 0.1, 0.5])


@pytest.fixture(scope="module")
def law_file(tmp_path_factory):
  """A ladder whose runs spend compute as N ~ C^0.6, images ~ C^0.4."""
  folder = tmp_path_factory.mktemp("ladder")
  x = np.geomspace(0.2, 2e4, 16)
  noise = np.exp(0.005 * np.random.default_rng(0).normal(size=16))
  y = laws.DOUBLE(x, TRUTH) * noise
  with (folder / "measurements.jsonl").open("w") as file:
    for i in range(16):
      file.write(
        json.dumps(
          {
            "model": f"m{i // 3}",
            "train_flops": x[i],
            "test_error": y[i],
            "parameters": 1e6 * x[i] ** 0.6,
            "images_seen": 1e5 * x[i] ** 0.4,
          }
        )
        + "\n"
      )
  assert fit.main([str(folder), "--bootstrap", "0"]) == 0
  return folder / "law.json"


def test_law_file_gives_the_same_fit_back(law_file):
  written = json.loads(law_file.read_text())
  again = lawfile.load(law_file)
  assert again.parameters == written["parameters"]
  for name, estimate in again.estimates.items():
    stored = [np.inf if end is None else end for end in written["intervals"][name]]
    np.testing.assert_allclose(estimate.interval, stored)


def test_prediction_holds_the_truth_and_says_what_was_extrapolated(law_file, capsys):
  assert predict.main([str(law_file), "--flops", "1e6", "--json"]) == 0
  answer = json.loads(capsys.readouterr().out)["prediction"]
  truth = laws.DOUBLE(np.array([1e6]), TRUTH)[0]
  for key in ("law", "average"):
    low, high = answer[key]["interval"]
    assert low < truth < high
  assert answer["times_beyond_data"] == pytest.approx(50)
  assert answer["allocation"]["parameters"]["exponent"] == pytest.approx(0.6)
  assert answer["allocation"]["images_seen"]["value"] == pytest.approx(1e5 * 1e6**0.4)
  assert predict.main([str(law_file), "--flops", "1e6"]) == 0
  out = capsys.readouterr().out
  assert "WARNING: 50 times beyond the data" in out
  assert predict.main([str(law_file), "--flops", "1e5"]) == 0
  assert "WARNING" not in capsys.readouterr().out


def ladder(sizes, seed=0, durations=8, shortest=1e5, **options):
  """A grid of sizes and durations under a law whose best size grows as compute^0.5."""
  parameters = np.repeat(sizes, durations)
  images = np.tile(shortest * 2.0 ** np.arange(durations), len(sizes))
  noise = np.exp(0.003 * np.random.default_rng(seed).normal(size=len(images)))
  y = (0.1 + 12 * parameters**-0.35 + 12 * images**-0.35) * noise
  model = np.char.add("m", np.arange(len(sizes)).astype(str)).repeat(durations)
  rows = [{"parameters": p, "images_seen": i} for p, i in zip(parameters, images, strict=True)]
  places = [f"m.csv:{i + 2}" for i in range(len(y))]
  names = {"x": "train_flops", "y": "test_error", "group": "model"}
  points = Points(6 * parameters * images, y, model, model, places, names, [], rows)
  return fit.of_points(points, **options)


def test_the_average_covers_the_truth_where_the_grid_bends_the_frontier():
  for seed in range(3):
    fitted = ladder([1e5, 2e5, 4e5, 8e5], seed)
    x = 10 * fitted.points.x.max()
    truth = 0.1 + 24 * (x / 6) ** -0.175
    with_edges = compare.interval(compare.rivals(fitted.solution), np.array([x]))
    assert not with_edges[0][0] <= truth <= with_edges[1][0]  # or the test would show nothing
    low, high = predict.at_scale(fitted, x)["average"]["interval"]
    assert low <= truth <= high


def test_few_points_between_the_edges_still_widen_the_average():
  """Three points compare no forms: the law fitted to them speaks for what lies between."""
  fitted = ladder([1e5, 2e5, 4e5], durations=5, form="power")
  with pytest.raises(DataError, match="too few"):
    compare.rivals(fitted.interior)
  x = 10 * fitted.points.x.max()
  low, high = predict.at_scale(fitted, x)["average"]["interval"]
  inner = fitted.interior.interval(np.array([x]))
  assert low <= inner[0][0]
  assert high >= inner[1][0]


@pytest.mark.parametrize("sizes", [(1e5, 2e5, 4e5, 8e5), (1e5, 4e5, 1.6e6)])
@pytest.mark.parametrize("shortest", [1e5, 1e6])
def test_model_size_to_train_next_covers_the_truth(sizes, shortest):
  for seed in range(5):
    fitted = ladder(sizes, seed, shortest=shortest, form="power")
    x = 10 * fitted.points.x.max()
    found = decide.allocation(fitted, x)
    for share in (found["parameters"], found["images_seen"]):
      assert share.low <= np.sqrt(x / 6) <= share.high
      assert share.low < share.value < share.high


@pytest.mark.parametrize("sizes", [(1e5,), (1e5, 4e5)])
def test_fewer_than_three_sizes_tell_no_trend(sizes):
  assert decide.allocation(ladder(sizes, form="power"), 1e16) == {}


def test_emphasis_moves_the_average_too():
  plain, emphatic = (
    compare.average(compare.rivals(ladder([1e5, 2e5, 4e5], emphasis=g).solution), np.array([1e16]))
    for g in (0.0, 3.0)
  )
  assert plain[0] != emphatic[0]


@pytest.mark.parametrize("models", [1, 3])
def test_an_error_of_zero_leaves_the_laws_own_answer(tmp_path, capsys, models):
  x = np.geomspace(1e15, 1e20, 12)
  y = np.linspace(0.5, 0.0, 12)
  lines = [f"m{i * models // 12},{a},{b}" for i, (a, b) in enumerate(zip(x, y, strict=True))]
  (tmp_path / "m.csv").write_text("\n".join(["model,train_flops,test_error", *lines]) + "\n")
  arguments = ["--residual", "linear", "--bootstrap", "0", "--out", str(tmp_path)]
  assert fit.main([str(tmp_path / "m.csv"), *arguments]) == 0
  capsys.readouterr()
  assert predict.main([str(tmp_path / "law.json"), "--x", "1e20"]) == 0
  out = capsys.readouterr().out
  assert "E = a (x + d)^-b + c" in out
  assert "no average of forms: errors of 0 have no relative error" in out


def test_one_model_is_extrapolated_as_a_learning_curve(tmp_path, capsys):
  x = np.geomspace(1, 1e3, 30)
  y = laws.DOUBLE(x, np.array([0.9, 0.7, 0.2, 20.0]))
  y = y * np.exp(0.005 * np.random.default_rng(0).normal(size=30))
  lines = ["train_flops,test_error", *(f"{a},{b}" for a, b in zip(x, y, strict=True))]
  (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
  assert fit.main([str(tmp_path / "m.csv"), "--frontier", "all", "--out", str(tmp_path)]) == 0
  capsys.readouterr()
  assert predict.main([str(tmp_path / "law.json"), "--flops", "2e3", "--json"]) == 0
  low, high = json.loads(capsys.readouterr().out)["prediction"]["curve"]["interval"]
  assert low < laws.DOUBLE(np.array([2e3]), np.array([0.9, 0.7, 0.2, 20.0]))[0] < high
  assert high / low < 1.1


def test_required_compute_inverts_the_law(law_file):
  loaded = lawfile.load(law_file)
  wanted = float(loaded(np.array(5e4)))
  needed = decide.required(loaded, wanted)
  assert needed.x == pytest.approx(5e4, rel=0.01)
  assert needed.low < needed.x < needed.high


def test_error_below_the_floor_is_out_of_reach(law_file, capsys):
  assert predict.main([str(law_file), "--error", "0.05"]) == 0
  assert "out of the law's reach: its floor is" in capsys.readouterr().out


def test_next_run_does_shrink_the_interval(law_file):
  """The promised share is what refitting with a run at that scale gives, about."""
  loaded = lawfile.load(law_file)
  x, left = decide.next_run(loaded.solution, 1e6, 1e5)
  assert 0 < left < 1
  before = np.subtract(*loaded.solution.interval(np.array([1e6]))[::-1])
  kept = loaded.frontier
  added = fit.law(
    np.append(loaded.points.x[kept], x),
    np.append(loaded.points.y[kept], float(loaded(x))),
    frontier="all",
  )
  after = np.subtract(*added.solution.interval(np.array([1e6]))[::-1])
  assert after / before == pytest.approx(left, abs=0.15)
  elsewhere = fit.law(
    np.append(loaded.points.x[kept], 30.0),
    np.append(loaded.points.y[kept], float(loaded(30.0))),
    frontier="all",
  )
  assert after < np.subtract(*elsewhere.solution.interval(np.array([1e6]))[::-1])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "give either --flops or --error"),
    (["--flops", "-1"], "must be positive"),
    (["--error", "0.99"], "already the worst run does better"),
    (["--flops", "abc"], "invalid float value: 'abc'"),
  ],
)
def test_mistakes_give_one_line(law_file, capsys, arguments, message):
  assert predict.main([str(law_file), *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "not valid JSON"),
    ("[]", "not a law.json"),
    ('{"schema": 1}', "'data' is missing"),
    ('{"schema": 2}', "newer than 1: update"),
  ],
)
def test_broken_law_files(tmp_path, capsys, text, message):
  path = tmp_path / "law.json"
  path.write_text(text)
  assert predict.main([str(path), "--flops", "1"]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"law": "dubble"}, "did you mean 'double'"),
    ({"law": "shape"}, "two variables"),
    ({"residual": "logg"}, "unknown residual 'logg'"),
    ({"huber": "x"}, "positive number"),
    ({"frontier": "hul"}, "unknown frontier 'hul'"),
    ({"emphasis": "x"}, "wrong type"),
    ({"columns": {}}, "'x' is missing"),
    ({"columns": 3}, "wrong type"),
    ({"data": []}, "no points"),
    ({"data": [1]}, "wrong type"),
    ({"data": [{"x": "q"}]}, "wrong type"),
    ({"data": [{"x": 1.0}]}, "'y' is missing"),
  ],
)
def test_damaged_entries_of_a_law_file_are_named(law_file, tmp_path, capsys, change, message):
  path = tmp_path / "law.json"
  path.write_text(json.dumps(json.loads(law_file.read_text()) | change))
  assert predict.main([str(path), "--flops", "1"]) == 2
  error = capsys.readouterr().err
  assert f"{path}: " in error
  assert message in error
  assert error.count("\n") == 1


def test_below_the_data_is_said_as_well(law_file, capsys):
  assert predict.main([str(law_file), "--flops", "0.01"]) == 0
  assert "below the smallest measured (0.200)" in capsys.readouterr().out
