"""The suites that every method of the package passes, callable on a class of your own: `check_method(MyLoss)`."""

from holdfast.testing.check import CheckFailed, check_method

__all__ = ["CheckFailed", "check_method"]
