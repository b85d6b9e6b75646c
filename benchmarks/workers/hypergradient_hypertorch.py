"""Hypergradients with hypertorch: any map, any rule. Its Neumann series of K has K + 1 terms."""

import hypergrad as hg
from bilevel_torch import RATES, STEPS, TERMS, problem
from serve import Work, serve


def make(data, variant):
    name, method = variant.split(":")
    inner, outer, slow, start = problem(name, data)
    slow.requires_grad_()
    descent = hg.GradientDescent(lambda w, slow: inner(slow[0], w[0]), RATES[name])

    def validation(w, slow):
        return outer(slow[0], w[0])

    def step():
        w = [start.clone().requires_grad_()]
        for _ in range(STEPS):
            w = descent(w, [slow], create_graph=method == "unrolled")
        if method == "unrolled":
            found = hg.reverse_unroll(w, [slow], validation)
        elif method == "cg":
            found = hg.CG(w, [slow], K=TERMS, fp_map=descent, outer_loss=validation)
        else:
            found = hg.neumann(w, [slow], K=TERMS - 1, fp_map=descent, outer_loss=validation)
        slow.grad = None
        return {"g": found[0].detach().numpy()}

    return Work(step)


serve(make)
