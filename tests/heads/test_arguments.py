"""Points and features of every type that NumPy and torch have."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_wine

from whycluster.errors import UserError
from whycluster.explain.table import explain_table
from whycluster.heads import NeuralizedKMeans, NeuralizedLinear, neuralize
from whycluster.heads.arguments import as_clusters, as_tensor

DIGITS = load_digits().data[:40]  # whole numbers up to 16
REAL = ("f2", "f4", "f8", "g", ">f2", ">f4", ">f8", "<f8", "i1", "i2", "i4", "i8", ">i4", ">i8")
REAL += ("u1", "u2", "u4", "u8", ">u2", ">u4", ">u8")
TENSORS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz")
TENSORS += ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


def squared_differences(x: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """`min_k |x - mu_k|² - |x - mu_c|²` for each `c`."""
    distances = ((x[:, None] - mu) ** 2).sum(2)
    other = [np.delete(distances, c, axis=1).min(1) - distances[:, c] for c in range(len(mu))]
    return np.stack(other, axis=1)


@pytest.mark.parametrize("dtype", REAL)
def test_arrays_of_any_type(dtype: str) -> None:
    head = neuralize(DIGITS[:4].astype(dtype))
    assert head.centre.dtype == (torch.float32 if dtype[-2:] in ("f2", "f4") else torch.float64)
    got = head(DIGITS.astype(dtype)).numpy()
    np.testing.assert_allclose(got, squared_differences(DIGITS, DIGITS[:4]), rtol=1e-5, atol=1e-2)
    table = explain_table(DIGITS[:4], DIGITS.astype(dtype))
    np.testing.assert_allclose(table.to_numpy(), explain_table(DIGITS[:4], DIGITS).to_numpy())


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_any_type(name: str) -> None:
    x = torch.from_numpy(DIGITS).to(getattr(torch, name))
    rounded = x.double().numpy()  # some have few digits
    head = neuralize(x[:4])
    assert head.centre.dtype == (
        torch.float32 if name.startswith(("float32", "float16", "b", "float8")) else torch.float64
    )
    np.testing.assert_allclose(head(x).numpy(), squared_differences(rounded, rounded[:4]), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(
        explain_table(DIGITS[:4], x).to_numpy(), explain_table(DIGITS[:4], rounded).to_numpy(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("x", [load_wine().data, load_digits().data * 10], ids=["wine", "digits"])
def test_halves_do_not_overflow(x: np.ndarray, dtype: torch.dtype) -> None:
    halves = torch.from_numpy(x[::20]).to(dtype)
    rounded = halves.double().numpy()
    expected = squared_differences(rounded, rounded[:3])
    for head in (neuralize(halves[:3]), NeuralizedKMeans(halves[:3]), neuralize(halves[:3].double()).to(dtype)):
        got = head(halves)
        assert got.isfinite().all()
        assert head.relevance(halves).isfinite().all()
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    linear = NeuralizedLinear(halves[:3], torch.ones(3, dtype=dtype))
    assert linear(halves).isfinite().all()


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U8", "S8", "M8[s]", "m8[s]", "V8"])
def test_arrays_that_are_no_real_numbers(dtype: str) -> None:
    with pytest.raises(UserError, match=r"features of type .* should be (real )?numbers\.$"):
        as_tensor(np.zeros((4, 3)).astype(dtype) if dtype != "V8" else np.zeros((4, 3), dtype))


@pytest.mark.parametrize("name", ["complex64", "complex128", "bits8", "float4_e2m1fn_x2"])
def test_tensors_that_are_no_real_numbers(name: str) -> None:
    wrong = torch.empty(4, 3, dtype=getattr(torch, name))
    for call in (
        lambda: neuralize(wrong),
        lambda: neuralize(DIGITS[:4, :3])(wrong),
        lambda: explain_table(DIGITS[:4, :3], wrong),
    ):
        with pytest.raises(UserError, match=f"of type torch.{name} should be real numbers"):
            call()


def test_quantized_tensors_are_told_apart() -> None:
    with pytest.raises(UserError, match="should be real numbers"):
        as_tensor(torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.quint8))


@pytest.mark.parametrize("dtype", ["u8", ">u8"])
def test_whole_numbers_beyond_int64(dtype: str) -> None:
    assert as_tensor(np.array([2**63 + 2**40], dtype)).tolist() == [float(2**63 + 2**40)]
    assert as_tensor(np.array([7], dtype)).dtype == torch.int64


@pytest.mark.parametrize(
    "clusters", [np.array([1, 0], ">i4"), np.array([1, 0], "u8"), torch.tensor([1, 0], dtype=torch.uint16)]
)
def test_cluster_numbers_of_any_type(clusters: Any) -> None:
    assert as_clusters("target", clusters, 2, 3).tolist() == [1, 0]


def test_more_digits_than_float64_has() -> None:
    with pytest.raises(UserError, match="row 1 contain NaN or infinity"):
        neuralize(DIGITS[:4])(np.array([[0], [np.longdouble("1e400")]]).repeat(64, 1))
