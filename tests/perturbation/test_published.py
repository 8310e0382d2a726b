"""Models of packages that know nothing of this one, as the package index has them.

Each agrees with itself on parameters that are written out, and coverage says what it
should. A package that is not installed is passed over: `pip install penzai flowjax
distrax` (distrax does not load with JAX 0.12).
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from members import agree


KEY = jax.random.key(0)
POINTS = jnp.linspace(-1, 1, 15).reshape(3, 5)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of theirs
]


def low_rank(report):
    return [x.layout.path for x in report.leaves if x.layout.cols]


def test_a_language_model_of_penzai():
    pz = pytest.importorskip("penzai.pz")
    llama = pytest.importorskip("penzai.models.transformer.variants.llamalike_common")
    config = llama.LlamalikeTransformerConfig(
        num_kv_heads=1,
        query_head_multiplier=2,
        embedding_dim=11,
        projection_dim=6,
        mlp_hidden_dim=13,
        num_decoder_blocks=2,
        vocab_size=17,
        mlp_variant="geglu_approx",
        tie_embedder_and_logits=True,
        rope_wavelength=10_000,
        rms_norm_eps=1e-6,
        attention_type=llama.AttentionTypeGlobalCausal(),
        activation_dtype=jnp.float32,
        parameter_dtype=jnp.float32,
    )
    model = llama.build_llamalike_transformer(config, init_base_rng=KEY)
    unbound, params = pz.unbind_params(model, freeze=True)

    def apply(params, tokens):
        model = pz.bind_variables(unbound, params)
        named = lambda x: pz.nx.wrap(x).tag("seq")
        out = model(named(tokens), token_positions=named(jnp.arange(4)))
        return out.untag("seq", "vocabulary").unwrap()

    report = agree(apply, params, jnp.array([1, 5, 3, 2]), tolerance=1e-4)
    assert len(low_rank(report)) == 1 + 2 * 7
    assert report.demoted == ()


def density(flow):
    params, rest = eqx.partition(flow, eqx.is_inexact_array)
    return params, lambda params, x: eqx.combine(params, rest).log_prob(x)


def test_a_coupling_flow_of_flowjax():
    flows = pytest.importorskip("flowjax.flows")
    base = pytest.importorskip("flowjax.distributions").Normal(jnp.zeros(5))
    flow = flows.coupling_flow(KEY, base_dist=base, flow_layers=2, nn_width=11)
    params, apply = density(flow)
    # (Factors of rank 2 would have the shape of the first weight.)
    report = agree(apply, params, POINTS, rank=1, tolerance=1e-4)
    assert all("weight" in path for path in low_rank(report))
    assert low_rank(report)


def test_a_masked_flow_of_flowjax_is_reported():
    flows = pytest.importorskip("flowjax.flows")
    base = pytest.importorskip("flowjax.distributions").Normal(jnp.zeros(5))
    flow = flows.masked_autoregressive_flow(
        KEY, base_dist=base, flow_layers=2, nn_width=11, nn_depth=1
    )
    params, apply = density(flow)
    layers = "bijection/bijection/bijection/bijections/0/masked_autoregressive_mlp"
    paths = tuple(f"{layers}/layers/{i}/weight/args/1" for i in range(2))
    report = agree(apply, params, POINTS, tolerance=1e-4, written_out=paths)
    assert {report[path].layout.lost.primitive for path in paths} == {"select_n"}


def test_a_mixture_of_distrax_in_a_module_of_haiku():
    distrax = pytest.importorskip("distrax")

    def log_prob(x):
        h = jnp.tanh(hk.Linear(11)(x))
        which = distrax.Categorical(logits=hk.Linear(3)(h))
        means = hk.Linear(15)(h).reshape(-1, 3, 5)
        normal = distrax.MultivariateNormalDiag(means)
        return distrax.MixtureSameFamily(which, normal).log_prob(x)

    model = hk.without_apply_rng(hk.transform(log_prob))
    report = agree(model.apply, model.init(KEY, POINTS), POINTS, tolerance=1e-4)
    assert low_rank(report) == [f"linear{i}/w" for i in ("", "_1", "_2")]


def test_a_mobile_network_of_haiku():
    def predict(images):
        net = hk.nets.MobileNetV1((1, 2), (8, 12), num_classes=5, use_bn=False)
        return net(images, is_training=False)

    model = hk.without_apply_rng(hk.transform(predict))
    images = jax.random.normal(KEY, (2, 12, 12, 3))
    report = agree(model.apply, model.init(KEY, images), images, tolerance=1e-4)
    matrices = [path for path in low_rank(report) if "depthwise" not in path]
    assert len(matrices) == 1 + 2 + 1  # the first, a pointwise one a block, the head
    assert report.demoted == ()
