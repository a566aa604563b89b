# SPDX-License-Identifier: Apache-2.0
"""Our gradients against TensorFlow's autodiff of the fake-quantized graph, on nets trained on scikit-learn's digits."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from train_models import NETS
from train_twin import integer, layers

from tlc.graph import Graph
from tlc.learn.fake_quant import FakeQuantModule
from tlc.learn.module import GraphModule
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.losses import loss_gradient, loss_head
from tlc.passes.backward import differentiate
from tlc.passes.static_scales import with_static_scales
from tlc.reference import run_int8
from tlc.reference_train import ReferenceTrainer
from tlc.reference_train_int import ReferenceTrainerInt, gradient_exponents, reference_trainer

SAMPLES = 96


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32), y[order].astype(np.int64)


def loss_of(y: Any, labels: Any) -> Any:
    """Cross-entropy, summed, of what the host would make of the tensor at the cut: a fixed projection to 10 classes."""
    y = tf.reshape(y, (tf.shape(y)[0], -1))
    size = int(y.shape[1])
    head = np.eye(10) if size == 10 else np.random.default_rng(1).standard_normal((size, 10)) / np.sqrt(size)
    logits = tf.matmul(y, tf.constant(head, y.dtype))
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


@functools.cache
def trained(name: str) -> tuple[Graph, Graph]:
    """Float and integer, after a short training."""
    tf.keras.utils.set_random_seed(0)
    x, labels = digits()
    module = GraphModule(NETS[name]().graph())
    top = module.graph.outputs[0]
    variables = [v for v in module.weights.values() if v.trainable]
    optimizer = tf.keras.optimizers.Adam(3e-3)

    @tf.function(reduce_retracing=True)
    def step(images: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(module({"input": images})[top], targets) / 64.0
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for start in range(0, 80 * 16, 16):
        step(x[start : start + 64], labels[start : start + 64])
    graph = module.trained()
    return graph, integer(graph, x[:256])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def host_gradient(graph: Graph, y: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Of the loss, at the cut, on the int8 output of one sample."""
    quant = graph[graph.outputs[0]].quant
    assert quant is not None
    real = tf.constant(quant.dequantize(y))
    with tf.GradientTape() as tape:
        tape.watch(real)
        loss = loss_of(real, label[None])
    gradient: np.ndarray = tape.gradient(loss, real).numpy()
    return gradient


def our_gradients(
    graph: Graph, q: np.ndarray, labels: np.ndarray, learning: Learning | None = None
) -> dict[str, np.ndarray]:
    trainer = reference_trainer(graph, differentiate(graph, layers(graph), learning))
    for image, label in zip(q, labels, strict=True):
        (y,) = trainer.forward(image[None])
        trainer.backward(host_gradient(graph, y, label))
    return as_tensors(graph, trainer.gradients())


def static_gradients(graph: Graph, q: np.ndarray, labels: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """The same in integers, a sample at a time, with scales found on the first 32 images and their classes."""
    learning = Learning("1", arithmetic="int", scales="static")
    plan = differentiate(graph, layers(graph), learning)
    images = graph["input"].quant.quantize(digits()[0][:32])
    told = [
        host_gradient(graph, run_int8(graph, {"input": x[None]})[graph.outputs[0]], n)
        for x, n in zip(images, known, strict=True)
    ]
    found = gradient_exponents(graph, plan, (((x[None],), g) for x, g in zip(images, told, strict=True)))
    trainer = ReferenceTrainerInt(graph, with_static_scales(plan, found))
    sums: dict[str, np.ndarray] = {}
    for image, label in zip(q, labels, strict=True):
        (y,) = trainer.forward(image[None])
        trainer.backward(host_gradient(graph, y, label))
        for name, gradient in trainer.gradients().items():
            sums[name] = sums.get(name, 0) + gradient
        trainer.abandon()
    return as_tensors(graph, sums)


def as_tensors(graph: Graph, gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    axes = {node.inputs[1]: REGISTRY[node.op].weight_axis(node) for node in graph.nodes if len(node.inputs) > 1}
    return {name: np.moveaxis(g, 0, axes.get(name) or 0) for name, g in gradients.items()}


@pytest.mark.parametrize(("arithmetic", "least"), [("float", 0.999), ("int", 0.99), ("static", 0.999)])
@pytest.mark.parametrize("name", NETS)
def test_gradients_of_the_fake_quantized_graph(name: str, arithmetic: Any, least: float) -> None:
    _, graph = trained(name)
    x, labels = digits()
    quant = graph["input"].quant
    assert quant is not None
    q, labels = quant.quantize(x[1000 : 1000 + SAMPLES]), labels[1000 : 1000 + SAMPLES]
    module = FakeQuantModule(graph)
    learned = layers(graph)
    with tf.GradientTape() as tape:
        top = module({"input": q})[graph.outputs[0]]
        loss = loss_of(top, labels)
    theirs = tape.gradient(loss, [module.constants[n] for n in learned])
    if arithmetic == "static":
        ours = static_gradients(graph, q, labels, digits()[1][:32])
    else:
        ours = our_gradients(graph, q, labels, Learning(arithmetic=arithmetic))
    cosines = {n: cosine(ours[n], their.numpy()) for n, their in zip(learned, theirs, strict=True)}
    print(name, arithmetic, {n: round(c, 5) for n, c in cosines.items()})
    assert min(cosines.values()) >= least, cosines
    for n, their in zip(learned, theirs, strict=True):
        size = np.linalg.norm(ours[n]) / np.linalg.norm(their.numpy())
        assert 0.97 < size < 1.03, (n, size)


@pytest.mark.parametrize("name", ["depthwise", "residual"])
def test_finite_differences_of_the_float_graph(name: str) -> None:
    """TensorFlow's gradient of the float graph is the slope of its loss, and the int8 graph's points the same way."""
    floats, graph = trained(name)
    x, labels = digits()
    x, labels = x[1000 : 1000 + SAMPLES], labels[1000 : 1000 + SAMPLES]
    floats = floats.copy()
    learned = layers(floats)
    for tensor in floats.tensors.values():
        if tensor.data is not None:
            tensor.data = tensor.data.astype(np.float64)
    module = GraphModule(floats)
    images, top = tf.constant(x, tf.float64), floats.outputs[0]

    def loss() -> Any:
        return loss_of(module({"input": images})[top], labels)

    with tf.GradientTape() as tape:
        value = loss()
    theirs = dict(zip(learned, tape.gradient(value, [module.weights[n] for n in learned]), strict=True))
    quant = graph["input"].quant
    assert quant is not None
    ours = our_gradients(graph, quant.quantize(x), labels)
    rng = np.random.default_rng(0)
    for tensor in learned:
        variable, step = module.weights[tensor], 1e-6
        direction = rng.standard_normal(variable.shape)
        before = variable.numpy()
        variable.assign(before + step * direction)
        above = float(loss())
        variable.assign(before - step * direction)
        below = float(loss())
        variable.assign(before)
        slope = float(np.sum(theirs[tensor].numpy() * direction))
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=0.01, abs=1e-3), tensor
        assert cosine(ours[tensor], theirs[tensor].numpy()) > 0.95, tensor


def loss_tf(kind: str, logits: Any, output: Any, labels: Any) -> Any:
    """Summed over the samples, from the reals before a softmax, or of the output."""
    if kind == "softmax-ce":
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    return tf.reduce_sum(tf.reduce_mean((output - tf.one_hot(labels, output.shape[-1], dtype=output.dtype)) ** 2, 1))


@pytest.mark.parametrize("kind", ["softmax-ce", "mse"])
@pytest.mark.parametrize("name", ["moves", "residual"])
def test_gradients_of_the_losses_on_the_device(name: str, kind: Any) -> None:
    """Against autodiff of the fake-quantized graph with TensorFlow's own losses: ``moves`` ends in a softmax."""
    _, graph = trained(name)
    x, labels = digits()
    quant = graph["input"].quant
    assert quant is not None
    q, labels = quant.quantize(x[1000 : 1000 + SAMPLES]), labels[1000 : 1000 + SAMPLES]
    learned = layers(graph)
    trainer = ReferenceTrainer(graph, differentiate(graph, learned, Learning(loss=kind)))
    total = 0.0
    for image, label in zip(q, labels, strict=True):
        trainer.forward(image[None])
        total += float(trainer.learn(int(label)).loss)
    module = FakeQuantModule(graph)
    with tf.GradientTape() as tape:
        top, output = trainer.plan.top, graph.outputs[0]
        values = module({"input": q}, [top, output])
        loss = loss_tf(kind, values[top], values[output], labels)
    assert total == pytest.approx(float(loss), rel=0.01)
    theirs = tape.gradient(loss, [module.constants[n] for n in learned])
    axes = {node.inputs[1]: REGISTRY[node.op].weight_axis(node) for node in graph.nodes if len(node.inputs) > 1}
    ours = {n: np.moveaxis(g, 0, axes.get(n) or 0) for n, g in trainer.gradients().items()}
    cosines = {n: cosine(ours[n], their.numpy()) for n, their in zip(learned, theirs, strict=True)}
    print(name, kind, {n: round(c, 5) for n, c in cosines.items()})
    assert min(cosines.values()) >= 0.999, cosines


@pytest.mark.parametrize("kind", ["softmax-ce", "mse"])
def test_losses_have_the_slopes_of_finite_differences(kind: Any) -> None:
    """Of the loss on the reals that the integers stand for, in float64; one integer up and down."""
    _, graph = trained("moves")
    top, _ = loss_head(graph, kind)
    quant = graph[top].quant
    assert quant is not None
    rng = np.random.default_rng(0)
    for label in range(10):
        q = rng.integers(-100, 100, graph[top].shape).astype(np.int8)
        gradient, verdict = loss_gradient(graph, kind, q, label)
        real = quant.s * (q.astype(np.float64).ravel() - quant.zero_point)

        def loss(values: np.ndarray, label: int = label) -> float:
            if kind == "softmax-ce":
                return float(np.log(np.exp(values - values.max()).sum()) + values.max() - values[label])
            return float(((values - np.eye(10)[label]) ** 2).mean())

        assert verdict.loss == pytest.approx(loss(real), rel=1e-5, abs=1e-6)
        slopes = [(loss(real + h) - loss(real - h)) / 2e-5 for h in 1e-5 * np.eye(10)]
        np.testing.assert_allclose(gradient.ravel(), slopes, rtol=1e-4, atol=1e-6)
