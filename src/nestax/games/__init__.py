"""Games: several players, each with a loss of its own, that move at the same time.

* fields: `joint_field`, `descent`
* games with closed forms: `Game`; `bilinear`, `quadratic`, `mixture`, `leader_follower`, `duopoly`;
  `dirac_gan`; `matrix_game`, `matching_pennies`, `rock_paper_scissors`, `prisoners_dilemma`;
  `iterated_prisoners_dilemma`, `small_ipd`, `subspace_ipd`, `pennies_dilemma`
* spectra: `jacobian`, `spectrum`, `leading_eigenvalues`, `kinds`, ...
* the dynamics of optimizers: `augmented`, `spectral_radius`, `best`, `convergence_map`, ...
* adjusted fields: `extragradient`, `consensus`, `symplectic`, `lookahead`, `lola`, `competitive`,
  and `adjusted` for the levels of a nest
* optimizers for players: `lookahead_minmax`; optimistic descent and negative momentum are optax's,
  complex momentum is in `nestax.optim`
* exponents: `lyapunov_exponents`, `published_exponent`
* branching: `branch_point`, `ridge_rider`, `generalized_ridge_rider`, ...
"""

from .adjust import competitive as competitive
from .adjust import consensus as consensus
from .adjust import extragradient as extragradient
from .adjust import lola as lola
from .adjust import lookahead as lookahead
from .adjust import symplectic as symplectic
from .branching import BranchPoint as BranchPoint
from .branching import branch_point as branch_point
from .branching import branches as branches
from .convergence import convergence_map as convergence_map
from .convergence import steps_to_converge as steps_to_converge
from .decompose import Kinds as Kinds
from .decompose import kinds as kinds
from .decompose import player_blocks as player_blocks
from .decompose import potential_and_hamiltonian as potential_and_hamiltonian
from .dilemmas import iterated_prisoners_dilemma as iterated_prisoners_dilemma
from .dilemmas import pennies_dilemma as pennies_dilemma
from .dilemmas import small_ipd as small_ipd
from .dilemmas import subspace_ipd as subspace_ipd
from .dirac import dirac_gan as dirac_gan
from .dynamics import augmented as augmented
from .dynamics import momentum_polynomial as momentum_polynomial
from .dynamics import spectral_radius as spectral_radius
from .eigen import Leading as Leading
from .eigen import leading_eigenvalues as leading_eigenvalues
from .eigen import spectrum as spectrum
from .exponents import lyapunov_exponents as lyapunov_exponents
from .field import descent as descent
from .field import joint_field as joint_field
from .following import adjusted as adjusted
from .game import Game as Game
from .generalized import generalized_ridge_rider as generalized_ridge_rider
from .matrix_games import matching_pennies as matching_pennies
from .matrix_games import matrix_game as matrix_game
from .matrix_games import prisoners_dilemma as prisoners_dilemma
from .matrix_games import rock_paper_scissors as rock_paper_scissors
from .methods import Extragradient as Extragradient
from .methods import GradientDescent as GradientDescent
from .methods import Momentum as Momentum
from .methods import Nesterov as Nesterov
from .methods import Optimistic as Optimistic
from .products import JacobianOperator as JacobianOperator
from .products import jacobian as jacobian
from .products import jacobian_operator as jacobian_operator
from .products import player_slices as player_slices
from .published import published_exponent as published_exponent
from .quadratics import bilinear as bilinear
from .quadratics import mixture as mixture
from .quadratics import quadratic as quadratic
from .ridges import ridge_rider as ridge_rider
from .search import Best as Best
from .search import best as best
from .slow_weights import LookaheadState as LookaheadState
from .slow_weights import lookahead_minmax as lookahead_minmax
from .stackelberg import duopoly as duopoly
from .stackelberg import leader_follower as leader_follower
from .tree import Branch as Branch
from .tree import Tree as Tree
