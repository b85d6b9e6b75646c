"""Games with closed forms by other means: Markov chains summed round by round, grids, brute force.

Nothing here is taken from the library.
"""

import itertools

import numpy as np

# What a player loses in a round: (own action, other's action), 0 to cooperate and 1 to defect.
YEARS = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 0.0, (1, 1): 2.0}


def sigmoid(t):
    return 1 / (1 + np.exp(-np.asarray(t, float)))


def softmax(t):
    e = np.exp(t - np.max(t))
    return e / e.sum()


def iterated_losses(x, y, discount, rounds):
    """The discounted losses of both players, `1 - discount` times the sum over these rounds.

    The joint distribution of the actions is propagated by a loop over pairs of actions. Strategies
    are functions: `None` or (x's action, y's action) of the round before -> probability of C, a
    number or an array of several strategies side by side.

    Returns:
        Losses of x and of y, each like the probabilities.
    """
    now = {None: 1.0}
    losses = [0.0, 0.0]
    for t in range(rounds):
        then = {}
        for before, mass in now.items():
            p, q = x(before), y(before)
            for a, b in itertools.product((0, 1), repeat=2):
                chance = mass * (p if a == 0 else 1 - p) * (q if b == 0 else 1 - q)
                then[a, b] = then.get((a, b), 0.0) + chance
        for (a, b), mass in then.items():
            weight = (1 - discount) * discount**t * mass
            losses = [losses[0] + weight * YEARS[a, b], losses[1] + weight * YEARS[b, a]]
        now = then
    return np.array(losses)


def memory_one(five):
    """A strategy of five probabilities: at first, after CC, CD, DC, DD with x's action first."""
    after = dict(zip(itertools.product((0, 1), repeat=2), five[1:], strict=True))
    return lambda before: five[0] if before is None else after[before]


def best_response(player, opponent, discount, sweeps):
    """The least discounted loss against a strategy of memory one, by value iteration.

    Over all strategies of any memory: the state of the process is the last pair of actions.
    """

    def lookahead(before, ahead):
        q = opponent(before)
        options = []
        for own in (0, 1):
            total = 0.0
            for other, chance in ((0, q), (1, 1 - q)):
                pair = (own, other) if player == 0 else (other, own)
                later = ahead[pair]
                total += chance * ((1 - discount) * YEARS[own, other] + discount * later)
            options.append(total)
        return min(options)

    pairs = list(itertools.product((0, 1), repeat=2))
    ahead = dict.fromkeys(pairs, 0.0)
    for _ in range(sweeps):
        ahead = {pair: lookahead(pair, ahead) for pair in pairs}
    return lookahead(None, ahead)


def normal_form(losses, strategies):
    """Expected losses of all players and the gains of their best pure replies, by enumeration."""
    players = range(len(losses))

    def expected(chosen):
        total = np.zeros(len(losses))
        for profile in itertools.product(*[range(len(s)) for s in chosen]):
            chance = np.prod([s[a] for s, a in zip(chosen, profile, strict=True)])
            total += chance * np.array([loss[profile] for loss in losses])
        return total

    here = expected(strategies)
    gains = []
    for n in players:
        replies = []
        for action in range(len(strategies[n])):
            pure = np.eye(len(strategies[n]))[action]
            replies.append(expected([pure if m == n else s for m, s in enumerate(strategies)])[n])
        gains.append(here[n] - min(replies))
    return here, np.array(gains)


def quadratic_losses(jacobian, linear, parts, w):
    """Losses of a quadratic game by sums over entries."""
    losses = []
    for own in parts:
        total = 0.0
        for i in own:
            total += linear[i] * w[i]
            for j in range(len(w)):
                total += jacobian[i][j] * w[i] * w[j] * (0.5 if j in own else 1.0)
        losses.append(total)
    return np.array(losses)


def least_by_rings(function, start, radius, shrink=0.5, rounds=60):
    """The minimum of a convex function of a few numbers, by a grid that shrinks around the best."""
    best = np.array(start, float)
    steps = np.array(list(itertools.product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=len(best))))
    for _ in range(rounds):
        points = best + radius * steps
        best = points[np.argmin([function(p) for p in points])]
        radius *= shrink
    return function(best)


def least_on_unit(function, points=201, rounds=4):
    """The minimum of a smooth function from 0 to 1, and where it is; by ever finer grids.

    The function takes an array of numbers.
    """
    low, high = 0.0, 1.0
    for _ in range(rounds):
        grid = np.linspace(low, high, points)
        values = function(grid)
        n = np.argmin(values)
        low, high = grid[max(n - 1, 0)], grid[min(n + 1, points - 1)]
    return values[n], grid[n]


def duopoly_losses(x, y):
    """Two firms at the price 1 - x - y."""
    price = 1 - x - y
    return -x * price, -y * price
