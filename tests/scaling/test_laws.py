import numpy as np
import pytest

from scaling import laws
from scaling.errors import DataError

EXAMPLES = {
    "power": [0.6, 0.3],
    "saturating": [0.6, 0.3, 0.1],
    "double": [0.6, 0.3, 0.1, 0.5],
}


def numerical_jacobian(law, x, parameters):
    columns = []
    for i, value in enumerate(parameters):
        step = 1e-6 * max(abs(value), 1e-3)
        up, down = parameters.copy(), parameters.copy()
        up[i] += step
        down[i] -= step
        columns.append((law(x, up) - law(x, down)) / (2 * step))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", laws.LAWS)
def test_jacobian_matches_finite_differences(name):
    law = laws.LAWS[name]
    x = np.geomspace(0.05, 300, 25)
    parameters = np.array(EXAMPLES[name])
    expected = numerical_jacobian(law, x, parameters)
    np.testing.assert_allclose(law.jacobian(x, parameters), expected, rtol=2e-6, atol=1e-9)
    other = parameters * 1.05
    assert not np.allclose(law.jacobian(x, other), expected, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", laws.LAWS)
def test_basis_times_linear_parameters_is_the_law(name):
    law = laws.LAWS[name]
    x = np.geomspace(0.05, 300, 25)
    by_name = dict(zip(law.parameters, EXAMPLES[name], strict=True))
    nonlinear = np.array([by_name[p] for p in law.nonlinear])
    linear = np.array([by_name[p] for p in law.linear])
    np.testing.assert_allclose(
        law.basis(x, nonlinear) @ linear, law(x, np.array(EXAMPLES[name])), rtol=1e-12
    )


@pytest.mark.parametrize("name", laws.LAWS)
def test_rescaled_parameters_give_the_same_values(name):
    law = laws.LAWS[name]
    x = np.geomspace(1e17, 1e21, 9)
    parameters = np.array(EXAMPLES[name])
    natural = law.rescale(parameters, 3e18)
    np.testing.assert_allclose(law(x, natural), law(x / 3e18, parameters), rtol=1e-12)


@pytest.mark.parametrize("name", laws.LAWS)
def test_laws_broadcast_over_parameter_rows(name):
    law = laws.LAWS[name]
    x = np.geomspace(0.1, 10, 4)
    rows = np.array([EXAMPLES[name], np.array(EXAMPLES[name]) * 1.1])
    assert law(x, rows).shape == (2, 4)
    assert law.jacobian(x, rows).shape == (2, 4, len(law.parameters))
    np.testing.assert_array_equal(law(x, rows)[1], law(x, rows[1]))


def test_unknown_law_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'saturating'"):
        laws.get("saturation")
