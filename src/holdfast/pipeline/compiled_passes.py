"""Forward passes that measure and curate, through compiled layers where those that train would be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from holdfast.models.joint_policy import JointPolicy
    from holdfast.models.policy import Policy

    AnyPolicy = TypeVar("AnyPolicy", Policy, JointPolicy, Policy | JointPolicy)


def compile_passes(policy: AnyPolicy, setting: Literal["auto", "on", "off"], say: Callable[[str], Any]) -> AnyPolicy:
    """A policy that compiles its layers at their first pass, where a setting asks for that on its device.

    Sampling, which calls the same layers with caches, runs them as they are (`pause_compiled`).

    Args:
        policy: Of one model, or of several.
        setting: `train.compile`.
        say: Told in a line why they cannot be compiled; they then run as they are.
    """
    from holdfast.models.compiled_layers import CompiledLayers, wants_compiled
    from holdfast.models.joint_policy import JointPolicy
    from holdfast.training.distributed import find_layers

    policies: list[Policy] = list(policy.policies.values()) if isinstance(policy, JointPolicy) else [policy]
    for one in policies:
        if wants_compiled(setting, one.causal.device):
            one.compiled_layers = CompiledLayers(say)
            one.compiled_layers.start(partial(find_layers, one.model))
    return policy


def describe_arithmetic(policy: Policy | JointPolicy) -> dict[str, Any]:
    """What the figures of a policy depend on beside weights and questions: `EvaluatedModel.extra`.

    Compiled layers round elsewhere, so that a base measured with them is not compared with a model measured without.
    """
    from holdfast.evaluation.subject import precision_of
    from holdfast.models.joint_policy import JointPolicy

    own = policy.own if isinstance(policy, JointPolicy) else policy
    return precision_of(policy.model) | ({"compiled": True} if own.compiled_layers is not None else {})
