# The public names of the library, each from its module: for type checkers, and for __init__.py.
from attribook.axioms import completeness_gap as completeness_gap
from attribook.axioms import relative_completeness_gap as relative_completeness_gap
from attribook.baselines import Law as Law
from attribook.chain import modified_gradient as modified_gradient
from attribook.coalitions import MaskedGame as MaskedGame
from attribook.criteria import infidelity as infidelity
from attribook.criteria import sensitivity_n as sensitivity_n
from attribook.methods import METHODS as METHODS
from attribook.methods import deep_shap as deep_shap
from attribook.methods import deeplift_rescale as deeplift_rescale
from attribook.methods import deeplift_reveal_cancel as deeplift_reveal_cancel
from attribook.methods import expected as expected
from attribook.methods import expected_gradients as expected_gradients
from attribook.methods import grad_cam as grad_cam
from attribook.methods import gradient as gradient
from attribook.methods import gradient_x_input as gradient_x_input
from attribook.methods import guided_backprop as guided_backprop
from attribook.methods import integrated_gradients as integrated_gradients
from attribook.methods import lrp_alpha_beta as lrp_alpha_beta
from attribook.methods import lrp_epsilon as lrp_epsilon
from attribook.methods import occlusion as occlusion
from attribook.methods import occlusion_map as occlusion_map
from attribook.methods import occlusion_patch as occlusion_patch
from attribook.methods import prediction_difference as prediction_difference
from attribook.methods import sensitivity as sensitivity
from attribook.methods import shapley as shapley
from attribook.methods import smooth_grad as smooth_grad
from attribook.neurons import conductance as conductance
from attribook.paths import path_integral as path_integral
from attribook.score import Score as Score

__version__: str
