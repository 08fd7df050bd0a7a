"""The error of a reward function that cannot be used."""

from ..data.errors import UserError


class RewardError(UserError):
    """A reward function cannot be loaded, fails, or returns something that is not one reward per completion."""
