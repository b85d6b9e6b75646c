"""Linear memories token by token, written for reading; numpy, float64."""

import numpy as np


def scan(q, k, u, erase, retain, momentum, carried, memory, surprise, read):
    """The one recurrence of `nestax.memory.memory_scan`; absent rates are arrays of what they mean.

    Without momentum `momentum` is all zero, and the surprise is the token's own write.
    """
    outputs = []
    for t in range(len(q)):
        seen = memory @ k[t]
        surprise = momentum[t] * surprise + np.outer(u[t] - carried[t] * seen, k[t])
        new = retain[t] * memory - erase[t] * np.outer(seen, k[t]) + surprise
        outputs.append((memory if read == "before" else new) @ q[t])
        memory = new
    return np.array(outputs).reshape(len(q), u.shape[1]), memory, surprise


def delta_rule(q, k, v, beta, alpha, memory):
    """M = alpha M (I - beta k k') + beta v k', read after the write."""
    outputs = []
    for t in range(len(q)):
        gone = np.eye(len(k[t])) - beta[t] * np.outer(k[t], k[t])
        memory = alpha[t] * memory @ gone + beta[t] * np.outer(v[t], k[t])
        outputs.append(memory @ q[t])
    return np.array(outputs), memory


def hope(q, k, v, rate, retain, memory, objective):
    """NL (88): M (a I - eta k k') - eta grad, read before the write; values are given.

    objective: "dot", -<M k, v>; "half", |M k - v|^2 / 2; "full", |M k - v|^2.
    """
    outputs = []
    for t in range(len(q)):
        outputs.append(memory @ q[t])
        error = {
            "dot": -v[t],
            "half": memory @ k[t] - v[t],
            "full": 2 * (memory @ k[t] - v[t]),
        }[objective]
        memory = memory @ (retain[t] * np.eye(len(k[t])) - rate[t] * np.outer(k[t], k[t])) - rate[
            t
        ] * np.outer(error, k[t])
    return np.array(outputs), memory


def titans(q, k, v, rate, momentum, retain, memory, surprise):
    """S = mu S - theta (M k - v) k', M = a M + S, read before the write."""
    outputs = []
    for t in range(len(q)):
        outputs.append(memory @ q[t])
        surprise = momentum[t] * surprise - rate[t] * np.outer(memory @ k[t] - v[t], k[t])
        memory = retain[t] * memory + surprise
    return np.array(outputs), memory, surprise
