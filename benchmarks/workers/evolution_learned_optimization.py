"""PES with google's learned_optimization: the release or a checkout; `jit`: one program a step.

The release was written for the JAX of 2022: names that JAX has removed are put back before it is
imported. A checkout needs one of them where JAX is 0.11 or newer.
"""

import importlib.util
import warnings

import jax
import jax.core
import jax.lib
import jax.numpy as jnp
import numpy as np
from rule_jax import DECAYS, HORIZON, META_RATE, PAIRS, SIGMA, SIZE, STEPS, report, weights
from serve import Work, serve

warnings.simplefilter("ignore")
OLD = {
    jax: {
        "tree_map": jax.tree.map,
        "tree_multimap": jax.tree.map,
        "tree_leaves": jax.tree.leaves,
        "tree_flatten": jax.tree.flatten,
        "tree_unflatten": jax.tree.unflatten,
        "tree_structure": jax.tree.structure,
        "ShapedArray": jax.core.ShapedArray,
    },
    jax.lib: {"xla_client": type("xla_client", (), {"Device": jax.Device})},
    jax.core: {
        "unsafe_am_i_under_a_jit_DO_NOT_USE": lambda: isinstance(jnp.zeros(()), jax.core.Tracer)
    },
}
for module, names in OLD.items():
    for name, value in names.items():
        if not hasattr(module, name):
            setattr(module, name, value)

from learned_optimization.learned_optimizers import mlp_lopt  # noqa: E402
from learned_optimization.optimizers import base  # noqa: E402
from learned_optimization.outer_trainers import (  # noqa: E402
    gradient_learner,
    truncated_pes,
    truncation_schedule,
)
from learned_optimization.tasks import quadratics  # noqa: E402

try:
    from learned_optimization.optimizers import optax_opts as optimizers
except ImportError:
    optimizers = base
RELEASE = not importlib.util.find_spec("learned_optimization.outer_trainers.lopt_truncated_step")


class Rule(mlp_lopt.MLPLOpt):
    """Theirs, beginning with the weights of the race."""

    def __init__(self, theta):
        super().__init__()
        self.begin = {
            f"mlp/~/linear_{i}": {"w": theta[2 * i], "b": theta[2 * i + 1]} for i in range(3)
        }

    def init(self, key):
        return self.begin


def layers(tree):
    return [tree[f"mlp/~/linear_{i}"][name] for i in range(3) for name in ("w", "b")]


def estimator(rule, offset):
    tasks = quadratics.FixedDimQuadraticFamily(SIZE)
    schedule = truncation_schedule.ConstantTruncationSchedule(HORIZON)
    # Of stacked and separate pairs, and of one call and two, the fastest here.
    how = dict(trunc_length=STEPS, steps_per_jit=STEPS, std=SIGMA, stack_antithetic_samples=False)
    more = dict(num_tasks=PAIRS, random_initial_iteration_offset=offset)
    if RELEASE:
        return truncated_pes.TruncatedPES(tasks, rule, schedule, **more, **how)
    from learned_optimization.outer_trainers import lopt_truncated_step

    step = lopt_truncated_step.VectorizedLOptTruncatedStep(tasks, rule, schedule, **more)
    return truncated_pes.TruncatedPES(step, **how)


def make(data, variant):
    theta = weights(data)
    rule = Rule(theta)
    pes, outer = estimator(rule, HORIZON), optimizers.Adam(META_RATE)
    learner = gradient_learner.SingleMachineGradientLearner(rule, [pes], outer)
    held = [learner.init(jax.random.PRNGKey(0)), jax.random.PRNGKey(1)]

    def together(state, key):
        key, now = jax.random.split(key)
        inner = learner.gradient_learner
        worker = inner.get_state_for_worker(state.gradient_learner_state)
        out, _ = pes.compute_gradient_estimate(
            worker, now, state.gradient_estimator_states[0], datas_list=[None]
        )
        moved = outer.update(
            state.gradient_learner_state.theta_opt_state, out.grad, loss=out.mean_loss
        )
        theta_state = state.gradient_learner_state.replace(theta_opt_state=moved)
        state = state.replace(
            gradient_learner_state=theta_state, gradient_estimator_states=[out.unroll_state]
        )
        return state, key, out.mean_loss

    compiled = jax.jit(together)

    def step():
        if variant == "jit":
            *held[:], loss = jax.block_until_ready(compiled(*held))
            return loss
        held[1], now = jax.random.split(held[1])
        held[0], loss, _ = learner.update(held[0], now)
        jax.block_until_ready(held[0])
        return loss

    def gradient():
        # The first period of episodes that begin together: the only one of which no part is masked.
        apart = estimator(rule, 0)
        worker = learner.gradient_learner.get_state_for_worker(
            learner.init(jax.random.PRNGKey(0)).gradient_learner_state
        )
        state = apart.init_worker_state(worker, jax.random.PRNGKey(2))
        target = np.repeat(np.asarray(state.pos_state.task_param), 2, axis=0)
        w = np.repeat(np.asarray(state.pos_state.inner_opt_state.params), 2, axis=0)
        out, _ = apart.compute_gradient_estimate(worker, jax.random.PRNGKey(3), state)
        zeros = [np.zeros((PAIRS, *a.shape)) for a in theta]
        drawn, found = layers(out.unroll_state.accumulator), layers(out.grad)
        memory = np.zeros((*w.shape, len(DECAYS))), np.zeros(len(w))
        told = report(theta, w, memory, {"target": target}, zeros, drawn, found)
        return told | {"late": np.zeros(())}

    return Work(step, gradient)


serve(make)
