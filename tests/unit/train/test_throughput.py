"""Utilisation counts training steps only, against a measured peak."""

from __future__ import annotations

import time

import pytest
import torch

from mudit.train.throughput import Utilisation, matmul_peak, peak

CPU = torch.device("cpu")


def test_the_peak_is_that_of_a_matmul():
    flops, start = 2 * 1024**3, time.perf_counter()
    peak = matmul_peak(CPU, repeats=2)
    elapsed = time.perf_counter() - start
    assert peak > 2 * flops / elapsed, "the best repeat is faster than the average of all"


def test_only_time_inside_steps_counts(monkeypatch):
    utilisation = Utilisation(1000, CPU)
    clock = iter([10.0, 12.0, 100.0, 103.0])  # two steps, of two and three seconds
    monkeypatch.setattr("mudit.train.throughput.time.perf_counter", lambda: next(clock))
    for _ in range(2):
        with utilisation.step():
            pass
    monkeypatch.undo()
    assert utilisation.share == 2 * 1000 / 5.0 / utilisation._peak


def test_before_the_first_step_there_is_none():
    assert Utilisation(1000, CPU).share == 0.0


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [("NVIDIA A100-SXM4-80GB", "bf16", 312e12), ("NVIDIA H100 80GB HBM3", "tf32", 494.7e12), ("NVIDIA H200", "fp32", 67e12)],
)
def test_a_known_gpu_has_its_makers_peak(monkeypatch, name, precision, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(torch.device("cuda", 0), precision) == expected


def test_an_unknown_gpu_is_measured(monkeypatch):
    """The H100 on a card is slower than the module, and has another name."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    monkeypatch.setattr("mudit.train.throughput.matmul_peak", lambda device, precision: 1.0)
    assert peak(torch.device("cuda", 0), "bf16") == 1.0
