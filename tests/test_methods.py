import copy
import inspect

import pytest
import torch
from networks import lively
from torch import nn
from torch.testing import assert_close

from attribook.axioms import completeness_gap, relative_completeness_gap
from attribook.baselines import Law
from attribook.chain import intercepted_calls
from attribook.methods import (
    METHODS,
    deep_shap,
    deeplift_rescale,
    deeplift_reveal_cancel,
    expected,
    expected_gradients,
    grad_cam,
    gradient,
    gradient_x_input,
    guided_backprop,
    integrated_gradients,
    lrp_alpha_beta,
    lrp_epsilon,
    occlusion,
    shapley,
    smooth_grad,
)
from attribook.neurons import conductance
from attribook.papers.data import photos20
from attribook.papers.functions.toys import (
    Pair,
    equivalent_pairs,
    one_plus_root,
    random_cnn,
    random_mlp,
    random_resnet,
)
from attribook.papers.integrated.rivals import RIVALS
from attribook.papers.networks import load_model
from attribook.score import Score

ALL = {  # what runs on a score and inputs alone
    name: method.function
    for name, method in METHODS.items()
    if method.needs <= {"gradient", "calls"} and name != "Shapley values"
}


@pytest.fixture
def net(generator):
    return random_resnet(nn.Softplus, generator)


@pytest.fixture
def images(generator):
    return torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attributions_keep_shape_dtype_and_device_and_are_finite(method, net, images, dtype):
    result = method(Score(net.to(dtype), 0), images.to(dtype))
    assert (result.shape, result.dtype, result.device) == (images.shape, dtype, images.device)
    assert torch.isfinite(result).all()
    assert not result.requires_grad


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
def test_a_batch_of_three_equals_three_batches_of_one(method, net, images):
    targets = torch.tensor([2, 0, 1])
    together = method(Score(net, targets), images)
    alone = [method(Score(net, targets[i : i + 1]), images[i : i + 1]) for i in range(3)]
    assert_close(together, torch.cat(alone), atol=1e-11, rtol=0)  # float64, other summation order


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
def test_the_model_and_the_inputs_are_untouched_afterwards(method, net, images):
    for parameter in list(net.parameters())[::2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    flags = [parameter.requires_grad for parameter in net.parameters()]
    inputs = images.clone().requires_grad_()
    assert not method(Score(net, 0), inputs).requires_grad
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(inputs, images) and inputs.grad is None
    hooks = [m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules()]
    assert not any(hooks) and not net.training


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
def test_methods_work_where_gradients_are_switched_off(method, net, images):
    expected = method(Score(net, 0), images)
    for switched_off in (torch.no_grad, torch.inference_mode):
        with switched_off():
            assert_close(method(Score(net, 0), images), expected)


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
def test_a_model_put_back_into_training_mode_is_refused(method, net, images):
    score = Score(net, 0)
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        method(score, images)


def test_every_method_explains_a_hidden_layer_through_the_tail(net, images):
    head, tail = Score(net, 0).split("act1")
    activations = head(images).detach()
    for method in ALL.values():
        assert method(tail, activations).shape == activations.shape


def test_the_root_example_tells_the_methods_apart():
    # [gradient, after Eq. 13]: (4, 1) by Gradient * Input, (4, 2) by average gradients
    score, x = Score(one_plus_root), torch.full((1, 2), 4.0, dtype=torch.float64)
    assert_close(gradient_x_input(score, x), torch.tensor([[4.0, 1.0]]).double())
    for method in (lrp_epsilon, deeplift_rescale):
        assert_close(method(score, x), torch.tensor([[4.0, 2.0]]).double(), atol=1e-8, rtol=0)


def test_linear_models_get_one_answer_from_all_salience_methods(generator):
    weight = torch.randn(10, generator=generator, dtype=torch.float64)
    score = Score(lambda z: z @ weight + 3)
    x = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    for method in (
        gradient_x_input,
        lrp_epsilon,
        deeplift_rescale,
        integrated_gradients,
        occlusion,
    ):
        assert_close(method(score, x), x * weight, atol=1e-13, rtol=0)


@pytest.mark.parametrize("method", [deeplift_rescale, deeplift_reveal_cancel])
@pytest.mark.parametrize("build", [random_cnn, random_resnet])
def test_deeplift_is_complete_for_one_baseline_and_for_one_each(method, build, generator):
    size = 8 if build is random_cnn else 6
    score = Score(build(nn.Tanh, generator), 0)
    x = torch.randn(3, 2, size, size, generator=generator, dtype=torch.float64)
    for rows in (1, 3):
        x0 = torch.randn(rows, 2, size, size, generator=generator, dtype=torch.float64)
        gap = completeness_gap(method(score, x, x0), score, x, x0)
        assert_close(gap, torch.zeros_like(gap), atol=1e-12, rtol=0)


def test_deep_shap_is_the_mean_of_deeplift_over_its_baselines(net, images, generator):
    score = Score(net, torch.tensor([0, 1, 2]))
    baselines = torch.randn(4, 2, 6, 6, generator=generator, dtype=torch.float64)
    expected = torch.stack([deeplift_rescale(score, images, x0[None]) for x0 in baselines]).mean(0)
    assert_close(deep_shap(score, images, baselines), expected, atol=1e-12, rtol=0)


@pytest.fixture
def law(generator):
    """Three baselines for each of the three images, with their probabilities."""
    points = torch.randn(3, 3, 2, 6, 6, generator=generator, dtype=torch.float64)
    return Law(points, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))


@pytest.mark.parametrize("method", [integrated_gradients, deeplift_rescale, occlusion])
def test_a_method_averaged_over_a_law_is_what_its_loops_say(method, net, images, law):
    score, averaged = Score(net, torch.tensor([2, 0, 1])), expected(method)
    found = averaged(score, images, law)
    for sample, target in enumerate(score.target):
        one, x = Score(net, int(target)), images[sample : sample + 1]
        total = torch.zeros_like(x)
        for weight, point in zip(law.weights.tolist(), law.points, strict=True):
            total += weight * method(one, x, point[sample : sample + 1])
        assert_close(found[sample : sample + 1], total, atol=1e-13, rtol=0)
    if method is not occlusion:
        gap = completeness_gap(found, score, images, law)
        assert_close(gap, torch.zeros_like(gap), atol=1e-12, rtol=0)


def test_a_law_of_one_point_is_that_baseline_and_an_even_one_expected_gradients(net, images, law):
    score, averaged = Score(net, 0), expected(integrated_gradients)
    certain = Law(law.points[:1], torch.ones(1))
    expected_maps = integrated_gradients(score, images, law.points[0])
    assert_close(averaged(score, images, certain), expected_maps)
    samples = law.points[:, 0]  # shared by all images
    even = Law(samples[:, None], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert_close(averaged(score, images, even), expected_gradients(score, images, samples, 50))


def test_averages_keep_type_and_have_no_graph(net, images, law):
    single = Law(law.points.float(), law.weights)  # probabilities in double precision
    found = expected(integrated_gradients)(Score(net.float(), 0), images.float(), single)
    assert found.dtype == torch.float32 and not found.requires_grad


def test_hidden_neurons_take_a_law_as_well(net, images, law):
    score = Score(net, 0)
    averaged = expected(lambda s, x, x0: conductance(s, x, "act1", x0, n_steps=30))
    found = averaged(score, images, law).flatten(1).sum(1)
    assert_close(found, expected(integrated_gradients)(score, images, law).flatten(1).sum(1))


def test_the_methods_of_two_modules_are_the_same(generator):
    score = Score(random_mlp(nn.Tanh, generator), torch.tensor([2, 0, 1]))
    x, x0 = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    for name, method in (("Integrated Gradients", integrated_gradients), ("Shapley", shapley)):
        assert_close(RIVALS[name](score, x, x0), method(score, x, x0), atol=1e-12, rtol=0)


def test_alpha_one_conserves_relevance_without_biases(generator):
    net = random_mlp(nn.ReLU, generator, bias=False)
    with torch.no_grad():
        net.dense3.weight.abs_()  # a logit of negative contributions only would lose its relevance
    score = Score(net, 0)
    x = torch.rand(5, 6, generator=generator, dtype=torch.float64) + 0.1
    total = lrp_alpha_beta(score, x, alpha=1, beta=0).sum(1)
    assert_close(total, score(x), atol=1e-7, rtol=0)  # the ratio rule's epsilon of 1e-9, amplified


def test_guided_backprop_lets_only_positive_gradients_through():
    # S = -ReLU(x1) + ReLU(x2): the first unit receives -1, which is cut
    score = Score(lambda z: torch.relu(z) @ torch.tensor([-1.0, 1.0]))
    assert guided_backprop(score, torch.tensor([[2.0, 3.0]])).tolist() == [[0.0, 1.0]]


def test_smooth_grad_repeats_from_its_generator_and_tends_to_the_gradient(net, images):
    score = Score(net, 0)
    runs = [
        smooth_grad(score, images, 0.2, 5, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    barely = smooth_grad(score, images, 1e-9, 2, generator=torch.Generator().manual_seed(1))
    assert_close(barely, gradient(score, images), atol=1e-7, rtol=0)


def test_the_noise_of_smooth_grad_is_a_share_of_each_samples_range_of_values():
    x = torch.tensor([[10.0, 12.0], [-3.0, 5.0]], dtype=torch.float64)  # ranges 2 and 8
    smooth = smooth_grad(
        Score(lambda z: (z**2).sum(1)), x, 0.5, 1, generator=torch.Generator().manual_seed(2)
    )
    noise = torch.randn(2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_close(smooth, 2 * (x + torch.tensor([[1.0], [4.0]]) * noise), atol=1e-12, rtol=0)


def test_grad_cam_weighs_feature_maps_by_their_mean_gradient(generator):
    net = random_cnn(nn.Tanh, generator)
    x = torch.randn(2, 2, 8, 8, generator=generator, dtype=torch.float64)
    score = Score(net, 1)
    head, tail = score.split("act1")
    activations = head(x).detach()
    weights = gradient(tail, activations).mean((2, 3))
    cam = torch.einsum("bk,bkhw->bhw", weights, activations).clamp(min=0)
    result = grad_cam(score, x, "act1")
    assert result.shape == x.shape
    enlarged = nn.functional.interpolate(cam[:, None], (8, 8), mode="bilinear")[:, 0]
    assert_close(result[:, 0], enlarged)
    assert torch.equal(result[:, 0], result[:, 1])
    with pytest.raises(ValueError, match="not a feature map"):
        grad_cam(score, x, "flat")


def test_a_constant_shaped_or_typed_like_the_inputs_stays_a_constant(generator):
    weight = torch.randn(6, generator=generator)
    score = Score(lambda z: torch.tanh(z * weight.to(z).expand_as(z)).sum(1))
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    x0 = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    gap = completeness_gap(deeplift_rescale(score, x, x0), score, x, x0)
    assert_close(gap, torch.zeros_like(gap), atol=1e-13, rtol=0)


def test_deeplift_is_complete_on_efficientnet_whose_relu6_is_seen_at_every_call():
    net, photos = load_model("lite0"), photos20().images[:2]
    with torch.no_grad():
        score = Score(net, net(photos).argmax(1))
    grey = torch.zeros_like(photos[:1])
    relu6 = sum(isinstance(module, nn.ReLU6) for module in net.modules())
    assert intercepted_calls(score, photos) == {"hardtanh": relu6}
    # float32 over 33 nonlinear layers: measured 4e-7 on twenty photos
    gap = relative_completeness_gap(deeplift_rescale(score, photos), score, photos, grey)
    assert gap.max() <= 1e-5
    unseen = relative_completeness_gap(gradient_x_input(score, photos), score, photos, grey)
    assert unseen.min() > 0.1  # what plain gradients would give


# -- the table of methods ----------------------------------------------------------------------


def called(name, score, inputs, generator):
    """A method of the table with all that it needs; and the baselines that it compared with."""
    method, few = METHODS[name], torch.linspace(0, 0.5, 3, dtype=torch.float64)
    baselines = few.view(-1, *[1] * (inputs.dim() - 1)).expand(3, *inputs.shape[1:])
    given = {
        "baselines": baselines,
        "generator": generator,
        "groups": torch.arange(inputs[0].numel()).view(inputs.shape[1:]),
    }
    arguments = {key: given[key] for key in method.needs & given.keys()}
    start = Law(baselines[:, None], torch.full((3,), 1 / 3, dtype=torch.float64))
    start = start if "baselines" in arguments else torch.zeros_like(inputs[:1])
    return method.function(score, inputs, **arguments), start


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Grad-CAM"])
def test_a_method_keeps_completeness_exactly_when_the_table_says_so(name, generator):
    score = Score(random_mlp(nn.Tanh, generator, (5, 8, 8, 3)), 1)
    inputs = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    attributions, start = called(name, score, inputs, generator)
    gap = completeness_gap(attributions, score, inputs, start).abs().max()
    assert gap < 1e-8 if "completeness" in METHODS[name].keeps else gap > 1e-3


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Grad-CAM"])
def test_a_method_tells_equal_functions_apart_exactly_when_the_table_says_so(name, generator):
    differences = []
    pairs = equivalent_pairs(generator, 50) | {"two linear maps as one": merged(generator)}
    for title, pair in pairs.items():
        if name == "DeepLIFT (RevealCancel)" and "pooling" in title:
            continue  # it has no rule for it
        if pair.points[0].numel() > 16 and not {"gradient"} & METHODS[name].needs:
            continue  # too many players
        scores = [Score(model, 0) for model in (pair.one, pair.other)]
        one, other = (called(name, score, pair.points, fresh())[0] for score in scores)
        differences.append((one - other).abs().max())
    assert (max(differences) < 1e-8) == ("implementation" in METHODS[name].keeps)


class Sum(nn.Module):
    """The sum of all features: its gradient is a single number in memory, seen everywhere."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"Grad-CAM", "DeepLIFT (RevealCancel)"}))
def test_a_bare_sum_gets_what_a_layer_of_ones_gets(name, generator):
    ones = nn.Linear(5, 1, bias=False).double()
    nn.init.ones_(ones.weight)
    inputs = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    one, other = (
        called(name, Score(model.eval(), 0), inputs, fresh())[0] for model in (Sum(), ones)
    )
    assert_close(one, other, atol=1e-12, rtol=0)


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one sample, seen thrice": lambda x: x[:1].expand_as(x),
    "a part of something larger": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", sorted(METHODS.keys() - {"Grad-CAM", "DeepLIFT (RevealCancel)", "Shapley values"})
)
def test_a_method_does_not_mind_how_its_inputs_lie_in_memory(name, layout, generator):
    score = Score(random_resnet(nn.ReLU, generator), 0)
    images = torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64)
    images[:, :, :3] = 0  # where input and baseline meet
    laid = LAYOUTS[layout](images)
    attributions = called(name, score, laid, fresh())[0]
    assert_close(
        attributions, called(name, score, laid.contiguous(), fresh())[0], atol=1e-10, rtol=0
    )


def merged(generator):
    """A network that begins with two linear maps, and the same with their product."""
    first, second, third = (
        nn.Linear(a, b, bias=False).double() for a, b in ((4, 5), (5, 6), (6, 3))
    )
    one = lively(nn.Sequential(first, second, nn.Softplus(), third))
    product = nn.Linear(4, 6, bias=False).double()
    product.weight = nn.Parameter(second.weight.detach() @ first.weight.detach())
    points = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    return Pair(one, nn.Sequential(product, nn.Softplus(), third).eval(), points, True)


def fresh():
    return torch.Generator().manual_seed(1)


def test_the_table_names_each_source_and_what_a_call_needs():
    words = {"gradient", "calls", "baselines", "layer", "groups", "generator"}
    for name, method in METHODS.items():
        assert method.needs <= words, name
        assert method.keeps <= {"completeness", "implementation"}, name
        required = {
            key
            for key, parameter in inspect.signature(method.function).parameters.items()
            if parameter.default is parameter.empty and key not in ("score", "inputs")
        }
        assert required == method.needs - {"gradient", "calls"}, name
        assert method.source
