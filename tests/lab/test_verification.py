"""``verify`` notices what it should, and refuses to be a check that cannot fail."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue.lab import VerificationError, records, verification, verify, verify_bound, verify_order, verify_statistic


def test_a_true_equation_prints_one_line_without_the_error(capsys):
    verify("eq-a", np.array([1.0, 2.0 + 1e-13]), np.array([1.0, 2.0]), atol=1e-12, oracle="brute force")
    assert capsys.readouterr().out == "✓ eq-a: equal within 1e-12 · brute force\n"
    assert records()[-1] == ("eq-a", "equal within 1e-12", "brute force")


def test_a_false_equation_names_label_deviation_index_and_both_values():
    with pytest.raises(
        VerificationError, match=r"^eq-a does not hold\n  largest deviation 0\.5 at index \(1, 0\): lhs 3\.5, rhs 3\n"
    ):
        verify("eq-a", np.array([[1.0, 2.0], [3.5, 4.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]), atol=1e-12)


@given(st.floats(1e-3, 1e3), st.sampled_from([1e-3, 2e-3, 0.1, -1e-3, -2.0]))
def test_whatever_passes_would_have_noticed_a_relative_change(value, change):
    sides = np.array([value, 2 * value])
    verify("eq-a", sides.copy(), sides, atol=1e-12, rtol=1e-6)
    with pytest.raises(VerificationError):
        verify("eq-a", sides, sides * (1 + change), atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex128, torch.int64])
def test_tensors_of_every_kind_are_compared(kind):
    x = torch.tensor([1, 2], dtype=kind)
    verify("eq-a", x, [1, 2], atol=1e-9)
    with pytest.raises(VerificationError, match="deviation"):
        verify("eq-a", x, [1, 3], atol=1e-9)


def test_tensors_with_gradient_and_numpy_scalars_are_compared():
    verify("eq-a", torch.tensor(2.0, requires_grad=True) * 1, np.float64(2.0), atol=0)


def test_infinities_match_exactly():
    verify("eq-a", [np.inf, 0.0, -np.inf], np.array([np.inf, 0.0, -np.inf]), atol=0)
    with pytest.raises(VerificationError):
        verify("eq-a", [np.inf, 1.0], np.array([-np.inf, 1.0]), atol=1e-9)
    with pytest.raises(VerificationError):
        verify("eq-a", [1e300, 1.0], np.array([np.inf, 1.0]), atol=1e-9)


def test_a_plain_number_fits_every_shape():
    verify("eq-a", np.ones((2, 3)), 1.0, atol=1e-12)


SAME = np.ones(3)
INTEGERS = np.arange(3)
X32 = torch.arange(3, dtype=torch.float32)


@pytest.mark.parametrize(
    ("lhs", "rhs", "options", "words"),
    [
        (np.ones(3), np.ones((1, 3)), {}, "broadcast silently"),
        (np.ones((3, 1)), np.ones(3), {}, "broadcast silently"),
        ([], [], {}, "empty"),
        ([np.nan], [np.nan], {}, "NaN"),
        (1.0, np.nan, {}, "NaN"),
        (True, True, {}, "truth value"),
        ("a", "a", {}, "compare int, float or complex"),
        ([10**30], [10**30], {}, "compare int, float or complex"),
        (2**53 + 1, 2**53, {"atol": 0.0}, "not exact in float64"),
        (1.0, 2.0, {"atol": 1.0, "scale": 1e6}, "would not notice"),
        ([1.0] * 501 + [9e-4] * 499, [1.0] * 501 + [1e-9] * 499, {"atol": 9e-4}, "would not notice"),
        ([np.inf], np.array([np.inf]), {"atol": 1e9}, "pass scale="),
        (torch.ones(3), X32.detach(), {}, "deviation"),
        (X32, X32.detach(), {}, "share memory"),
        (INTEGERS, INTEGERS[:], {}, "share memory"),
        (1.0, 1.0, {"oracle": "a | b"}, "plain words"),
        (SAME, SAME, {}, "same object"),
        (SAME, SAME[:], {}, "share memory"),
        (1.0, 1.0, {"atol": 1e-3}, "would not notice"),
        ([1.0, 1e-3], [1.0, 1e-3], {"atol": 1e-3}, "would not notice"),
        (1.0, 1.0, {"rtol": 1e-3}, "would not notice"),
        (1.0, 1.0, {"atol": -1.0}, "not negative"),
        (1.0, 1.0, {"atol": np.inf}, "finite"),
        (0.0, 0.0, {"atol": 1e-12}, "pass scale="),
        (0.0, 0.0, {"atol": 1e-2, "scale": 1.0}, "would not notice"),
        (0.0, 0.0, {"scale": -1.0}, "scale must be positive"),
        (1.0, 1.0, {"sensitivity": 0.1}, "needs a reason"),
        (1.0, 1.0, {"sensitivity": 2.0, "reason": "x"}, "sensitivity must be"),
        (1.0, 1.0, {"sensitivity": 0.0}, "sensitivity must be"),
    ],
)
def test_checks_that_could_not_fail_are_refused(lhs, rhs, options, words):
    with pytest.raises(VerificationError, match=words):
        verify("eq-a", lhs, rhs, **({"atol": 1e-12} | options))


@pytest.mark.parametrize("label", ["a", "Eq-a", "", None, 3, "eq-", "eq-x y", "eq-a_b"])
def test_a_label_is_the_label_of_an_equation(label):
    with pytest.raises(VerificationError, match="label must be"):
        verify(label, 1.0, 1.0, atol=1e-12)


def test_zero_against_zero_is_judged_by_the_size_of_what_cancels():
    verify("eq-a", 1e-13, 0.0, atol=1e-12, scale=1.0)
    verify("eq-a", 0.0, 0.0, atol=0)
    verify("eq-a", [torch.zeros(1).sum(), torch.tensor(0.0, requires_grad=True)], [0.0, 1e-14], atol=1e-12, scale=1.0)
    with pytest.raises(VerificationError, match="deviation"):
        verify("eq-a", 1e-11, 0.0, atol=1e-12, scale=1.0)


def test_the_size_of_what_cancels_is_printed(capsys):
    verify("eq-a", 1e-13, 0.0, atol=1e-12, scale=5.0)
    assert capsys.readouterr().out == "✓ eq-a: equal within 1e-12 of 5\n"


def test_equal_infinities_reach_their_bound(capsys):
    verify_bound("eq-b", [np.inf, 1.0], upper=np.array([np.inf, 2.0]))
    assert capsys.readouterr().out == "✓ eq-b: upper bound holds\n"


def test_a_wider_tolerance_is_declared_and_printed(capsys):
    verify("eq-a", 1.0, 1.005, atol=0.01, sensitivity=0.02, reason="a coarse grid")
    assert capsys.readouterr().out == "✓ eq-a: equal within 0.01, notices 2 %\n"


def test_a_bound_holds_and_is_approached(capsys):
    verify_bound("eq-b", np.array([0.2, 1.0]), lower=0.2, upper=np.array([0.5, 1.0]))
    assert capsys.readouterr().out == "✓ eq-b: both bounds hold\n"


@pytest.mark.parametrize(
    ("value", "options", "words"),
    [
        (1.1, {"upper": 1.0}, "deviation"),
        (0.9, {"lower": 1.0}, "deviation"),
        (1.0, {"upper": 2.0}, "never approached"),
        (1.0, {"lower": 0.0}, "never approached"),
        (1.0, {"upper": 2.0, "sensitivity": 0.6}, "needs a reason"),
        (1.0, {"upper": 2.0, "sensitivity": 0.4, "reason": "loose"}, "never approached"),
        (1.0, {}, "give lower="),
        (1.0, {"upper": 1.0, "slack": 0.1}, "for rounding"),
        ([-1.0, 1e6], {"lower": np.array([0.0, 1e6]), "slack": 1.0}, "for rounding"),
        (0.9995, {"upper": 1.0, "slack": 0.00099}, "for rounding"),
        ([1 + 5j], {"lower": 1.0}, "no order"),
        (1.0, {"upper": 1.0, "slack": -0.1}, "slack"),
        ([1.0, 2.0], {"upper": np.array([[1.0, 2.0]])}, "broadcast silently"),
        ([], {"upper": 1.0}, "empty"),
        (np.nan, {"upper": 1.0}, "NaN"),
    ],
)
def test_bounds_that_fail_or_could_not_fail_are_refused(value, options, words):
    with pytest.raises(VerificationError, match=words):
        verify_bound("eq-b", value, **options)


def test_a_loose_bound_declares_how_loose(capsys):
    verify_bound("eq-b", 1.0, upper=1.5, sensitivity=0.4, reason="loose by nature")
    verify_bound("eq-b", [0.5, 3.0], lower=0.0, sensitivity=1, reason="a sign")
    assert capsys.readouterr().out.splitlines() == [
        "✓ eq-b: upper bound holds, notices 40 %",
        "✓ eq-b: lower bound holds, notices a change of sign",
    ]


@given(st.floats(0.1, 10), st.floats(0.01, 0.5))
def test_moving_a_bound_by_its_declared_sensitivity_is_noticed(value, gap):
    bound = value * (1 + gap)
    verify_bound("eq-b", value, upper=bound, sensitivity=0.9, reason="declared")
    with pytest.raises(VerificationError):
        verify_bound("eq-b", value, upper=bound * (1 - 0.9) * 0.999, sensitivity=0.9, reason="declared")


def test_a_statistic_within_its_error_passes(capsys):
    verify_statistic("eq-c", 1.02, 1.0, standard_error=0.01, sensitivity=0.05, reason="100 draws")
    assert capsys.readouterr().out == "✓ eq-c: within 4 standard errors, notices 5 % · Monte Carlo\n"


@pytest.mark.parametrize(
    ("estimate", "options", "words"),
    [
        (1.05, {"sensitivity": 0.05, "reason": "r"}, "deviation"),
        (1.0, {}, "would pass unnoticed"),
        (1.0, {"sensitivity": 0.05}, "needs a reason"),
        (1.0, {"standard_error": 0.0, "sensitivity": 0.05, "reason": "r"}, "standard_error must be positive"),
        (1.0, {"k": 50, "sensitivity": 0.05, "reason": "r"}, "k must be"),
        (np.nan, {"sensitivity": 0.05, "reason": "r"}, "NaN"),
        (1.0, {"standard_error": 0.01 + 1j, "sensitivity": 0.05, "reason": "r"}, "no order"),
    ],
)
def test_statistics_that_fail_or_could_not_fail_are_refused(estimate, options, words):
    with pytest.raises(VerificationError, match=words):
        verify_statistic("eq-c", estimate, 1.0, **({"standard_error": 0.01} | options))


def test_every_entry_of_a_statistic_must_be_sharp():
    with pytest.raises(VerificationError, match="would pass unnoticed"):
        verify_statistic("eq-c", [1.0, 500.0], [1.0, 2.0], standard_error=np.array([1e-5, 1000.0]), sensitivity=0.05, reason="r")


def test_a_mean_of_zero_needs_the_size_of_what_is_averaged():
    verify_statistic("eq-c", 0.001, 0.0, standard_error=0.001, scale=1.0, sensitivity=0.01, reason="10^6 signs")
    with pytest.raises(VerificationError, match="pass scale="):
        verify_statistic("eq-c", 0.001, 0.0, standard_error=0.001, sensitivity=0.01, reason="10^6 signs")


def test_a_convergence_order_is_the_slope():
    steps = np.array([0.4, 0.2, 0.1])
    verify_order("eq-d", steps, 3 * steps**4, 4, atol=0.2)
    with pytest.raises(VerificationError, match="order 3 instead of 4"):
        verify_order("eq-d", steps, steps**3, 4, atol=0.2)
    with pytest.raises(VerificationError, match="three steps"):
        verify_order("eq-d", steps[:2], steps[:2] ** 4, 4, atol=0.2)
    with pytest.raises(VerificationError, match="atol must be"):
        verify_order("eq-d", steps, steps**4, 4, atol=1.0)
    with pytest.raises(VerificationError, match="half the order"):
        verify_order("eq-d", steps, np.ones(3), 0.3, atol=0.4)
    with pytest.raises(VerificationError, match="positive"):
        verify_order("eq-d", steps, 0 * steps, 4, atol=0.2)


@pytest.mark.parametrize(
    ("check", "third"),
    [
        (lambda: verify("eq-a", 1.5, 1.0, atol=1e-12, oracle="brute force"), "allowed: 1e-12 · brute force"),
        (lambda: verify("eq-a", 1.5, 1.0, atol=0, rtol=1e-9), "allowed: 1e-9 relative"),
        (
            lambda: verify_bound("eq-a", 1.5, upper=1.0, slack=1e-9, oracle="random"),
            "upper bound, allowed beyond it: 1e-9 · random",
        ),
        (
            lambda: verify_statistic("eq-a", 1.001, 1.0, standard_error=1e-4),
            "10.0 standard errors, allowed: 4 · Monte Carlo",
        ),
    ],
)
def test_a_failing_check_reads_in_three_lines(check, third):
    with pytest.raises(VerificationError) as caught:
        check()
    first, second, last = str(caught.value).splitlines()
    assert first == "eq-a does not hold" and "largest deviation" in second and last.strip() == third


def test_a_reader_s_notebook_names_equations_by_number(monkeypatch):
    monkeypatch.setattr(verification, "_numbers", {})
    verification.number_equations({"eq-a": "3.8"})
    with pytest.raises(VerificationError, match=r"^eq-a \(3\.8\) does not hold"):
        verify("eq-a", 1.5, 1.0, atol=1e-12)


def test_a_notebook_shows_the_message_without_the_machinery():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
    shell.run_cell("from kexue.lab import verify; verify('eq-a', 1.5, 1.0, atol=1e-12)")
    assert "\n".join(shown).startswith("VerificationError: eq-a does not hold") and "Traceback" not in str(shown)
    assert len("\n".join(shown).splitlines()) == 3
