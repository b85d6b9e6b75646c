"""Layers of memories written out in numpy: one token, one head, one matrix at a time."""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(x):
    return x / np.sqrt(np.sum(x**2) + 1e-6)


def array(a):
    return np.asarray(a, np.float64)


def convolved(rows, weight):
    """silu of y_t = sum_j w_j x_{t-j}; nothing comes before the first token."""
    if weight is None:
        return [silu(row) for row in rows]
    made = []
    for t in range(len(rows)):
        y = np.zeros_like(rows[t])
        for j in range(min(weight.shape[1], t + 1)):
            y = y + array(weight)[:, j] * rows[t - j]
        made.append(silu(y))
    return made


def projected(layer, x):
    return convolved([array(layer.into) @ row for row in x], layer.conv.weight)


def gate(module, row, head):
    return sigmoid(array(module.weight)[head] @ row + array(module.bias)[head])


def output(module, reads, row):
    """The heads' reads, normed, gated by the layer's input."""
    normed = [o / np.sqrt(np.mean(o**2) + 1e-6) * array(module.scale) for o in reads]
    return array(module.out) @ (np.concatenate(normed) * silu(array(module.gate) @ row))


def queries_keys_values(layer, x):
    """[t][head] -> (q, k, v)."""
    size = layer.into.shape[1] // layer.heads
    key_size = getattr(layer, "key_size", size)
    made = []
    for row in projected(layer, x):
        heads = (np.split(own, [key_size, 2 * key_size]) for own in np.split(row, layer.heads))
        made.append([(unit(q), unit(k), v) for q, k, v in heads])
    return made


def begun(layer, rows, columns):
    """The memory of each head before the first token."""
    if layer.initial is None:
        return [np.zeros((rows, columns)) for _ in range(layer.heads)]
    return list(array(layer.initial))


def naive_linear_attention(layer, x):
    heads, width = layer.heads, layer.into.shape[1]
    memory = begun(layer, width // heads, layer.key_size)
    outputs = []
    for row, tokens in zip(x, queries_keys_values(layer, x), strict=True):
        reads = []
        for h, (q, k, v) in enumerate(tokens):
            alpha = 1.0 if layer.forget is None else gate(layer.forget, row, h)
            memory[h] = alpha * memory[h] + np.outer(v, k)
            reads.append(memory[h] @ q)
        outputs.append(output(layer.output, reads, row))
    return np.array(outputs), np.array(memory)


def naive_delta_memory(layer, x):
    heads, width = layer.heads, layer.into.shape[1]
    size = width // heads
    memory = begun(layer, size, size)
    outputs = []
    for row, tokens in zip(x, queries_keys_values(layer, x), strict=True):
        reads = []
        for h, (q, k, v) in enumerate(tokens):
            alpha = 1.0 if layer.forget is None else gate(layer.forget, row, h)
            beta = (2 if layer.negative else 1) * gate(layer.rate, row, h)
            erased = memory[h] @ (np.eye(size) - beta * np.outer(k, k))
            memory[h] = alpha * erased + beta * np.outer(v, k)
            reads.append(memory[h] @ q)
        outputs.append(output(layer.output, reads, row))
    return np.array(outputs), np.array(memory)


def hidden(z):
    return np.tanh(z) / np.sqrt(len(z))


def said(weights, x):
    """What a linear memory, or an MLP, says of x."""
    if len(weights) == 1:
        return weights[0] @ x
    return weights[1] @ hidden(weights[0] @ x)


def inputs_and_errors(weights, k, error):
    """What enters each matrix, and the error that arrives there."""
    if len(weights) == 1:
        return [(k, error)]
    z = weights[0] @ k
    passed = weights[1].T @ error * (1 - np.tanh(z) ** 2) / np.sqrt(len(z))
    return [(k, passed), (hidden(z), error)]


def shortened(error, limit):
    return error / np.sqrt(1 + np.sum(error**2) / limit**2)


def naive_titans(layer, x):
    heads, size = layer.heads, layer.into.shape[1] // layer.heads
    start = [[array(m)[h] for m in layer.initial] for h in range(heads)]
    now = [list(weights) for weights in start]
    surprise = [[np.zeros_like(m) for m in weights] for weights in now]
    linear = len(layer.initial) == 1
    outputs = []
    for t, (row, tokens) in enumerate(zip(x, queries_keys_values(layer, x), strict=True)):
        if linear or t % layer.chunk == 0:
            anchor = [list(weights) for weights in now]
        reads = []
        for h, (q, k, v) in enumerate(tokens):
            alpha = 1.0 if layer.forget is None else gate(layer.forget, row, h)
            mu = 0.0 if layer.mu is None else gate(layer.mu, row, h)
            theta = gate(layer.rate, row, h)
            if layer.rule == "dgd":
                theta = theta * (1 + alpha) / 2
            v = v if linear else v / np.sqrt(size)
            error = -v if layer.objective == "dot" else said(anchor[h], k) - v
            if not linear:
                error = shortened(error, 1.0)
            before = said(now[h], q)
            for i, (z, e) in enumerate(inputs_and_errors(anchor[h], k, error)):
                if layer.rule == "local" and not linear:
                    e = e + (now[h][i] - anchor[h][i]) @ z
                surprise[h][i] = mu * surprise[h][i] - theta * np.outer(e, z)
                kept = alpha * now[h][i]
                if not linear:
                    kept = kept + (1 - alpha) * start[h][i]
                if layer.rule == "dgd":
                    kept = kept - theta * np.outer(now[h][i] @ z, z)
                now[h][i] = kept + surprise[h][i]
            reads.append(before if layer.read == "before" else said(now[h], q))
        outputs.append(output(layer.output, reads, row))
    return np.array(outputs), [np.array(m) for m in zip(*now, strict=True)]


def naive_self_modifying(layer, x):
    """Outputs, and {memory: [its matrices, (heads, out, in)]} after the last token."""
    rule, heads, width = layer.written, layer.heads, layer.into.shape[1]
    rows = projected(layer, x)
    now = [
        {box: [array(m)[h] for m in matrices] for box, matrices in layer.initial.items()}
        for h in range(heads)
    ]
    start = [{box: list(matrices) for box, matrices in boxes.items()} for boxes in now]
    surprise = [{b: [np.zeros_like(m) for m in ms] for b, ms in boxes.items()} for boxes in now]
    anchor = [{} for _ in range(heads)]
    outputs = []
    for t, row in enumerate(x):
        reads = []
        for h in range(heads):
            for box, matrices in now[h].items():
                chunk = rule.chunk if box == "memory" else rule.chunk_others
                if t % chunk == 0:
                    anchor[h][box] = list(matrices)

            def ask(weights, box, z, h=h):
                answer = said(weights[box], z) if box in weights else 0
                return answer + (array(layer.skips[box])[h] @ z if box in layer.skips else 0)

            own = np.split(rows[t], heads)[h]
            z = unit(own[: width // heads])
            k, v = unit(ask(anchor[h], "k", z)), ask(anchor[h], "v", z)
            if "q" in layer.skips or "q" in layer.initial:
                q = unit(ask(anchor[h], "q", z))
            else:
                q = unit(own[width // heads :])
            alpha = 1.0
            if layer.retain_bias is not None:
                logit = ask(anchor[h], "retain", z)[0]
                alpha = sigmoid(logit + array(layer.retain_bias)[h])
            eta = sigmoid(ask(anchor[h], "rate", z)[0] + array(layer.rate_bias)[h])
            eta = rule.max_rate * (1 + alpha) / 2 * eta
            if (rule.objective, rule.rule) == ("l2", "dgd"):  # erases twice
                eta = eta / 2
            before = ask(now[h], "memory", q)
            for box in now[h]:
                error = -ask(anchor[h], box, v)
                if rule.objective == "l2":
                    error = error + ask(anchor[h], box, k)
                error = shortened(error, rule.limit)
                for i, (own, e) in enumerate(inputs_and_errors(anchor[h][box], k, error)):
                    matrix = now[h][box][i]
                    step = -eta * np.outer(e, own)
                    if layer.mu is not None:
                        step = step + gate(layer.mu, row, h) * surprise[h][box][i]
                        surprise[h][box][i] = step
                    kept = alpha * matrix
                    if rule.rule == "dgd":
                        kept = matrix @ (alpha * np.eye(len(own)) - eta * np.outer(own, own))
                    if len(now[h][box]) == 2 or "memory" not in layer.skips:
                        kept = kept + (1 - alpha) * start[h][box][i]
                    now[h][box][i] = kept + step
            reads.append(before if rule.read == "before" else ask(now[h], "memory", q))
        outputs.append(output(layer.output, reads, row))
    final = {
        box: [np.array([now[h][box][i] for h in range(heads)]) for i in range(len(now[0][box]))]
        for box in now[0]
    }
    return np.array(outputs), final
