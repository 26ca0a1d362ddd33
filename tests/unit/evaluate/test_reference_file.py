"""The ADM evaluator's file: read a batch at a time, refused in one line when it is something else, and used by the stages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mudit.config.schema import FileReference
from mudit.errors import DataError
from mudit.evaluate import extractor_stage, reference_file, sample_stage, stage
from mudit.evaluate.extractors import load_extractor
from mudit.evaluate.frechet import Gaussian
from mudit.evaluate.reference import Real
from mudit.evaluate.reference_file import ReferenceFile
from mudit.files import sha256_file

COUNT, SIDE = 25, 16


def contents(features=6, spatial=4, **changes):
    """The arrays of a small file."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    drawn = [rng.standard_normal((60, dims)).astype(np.float32) for dims in (features, spatial)]
    (mu, sigma), (mu_s, sigma_s) = ((each.mean(axis=0), np.cov(each, rowvar=False)) for each in drawn)
    return {"arr_0": images, "mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s, **changes}


def write(path, arrays, save=np.savez):
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_images_are_read_in_any_pieces(tmp_path, save, monkeypatch):
    monkeypatch.setattr(reference_file, "_BATCH", 4)
    arrays = contents()
    found = ReferenceFile(write(tmp_path / "reference.npz", arrays, save), None)
    whole_NCHW = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)
    assert found.count == COUNT
    for numbers in (range(COUNT), range(7, 20), range(24, 25)):
        batches = list(found.batches(numbers))
        assert max(map(len, batches)) <= 4
        assert torch.equal(torch.cat(batches), whole_NCHW[numbers.start : numbers.stop])
    assert np.array_equal(found.gaussian.covariance_DD, arrays["sigma"].astype(np.float64))
    assert np.array_equal(found.spatial.mean_D, arrays["mu_s"].astype(np.float64))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (contents(mu=None), r"has no mu\)"),
        (contents(arr_0=None, sigma_s=None), r"has no arr_0, sigma_s\)"),
        (contents(sigma=np.eye(5)), r"mu \[6\] and sigma \[5, 5\] do not fit"),
        (contents(mu_s=np.full(4, np.nan)), "mu_s or sigma_s has values that are not finite"),
        (contents(arr_0=np.zeros((3, 3, 16, 16), np.uint8)), r"uint8 \[3, 3, 16, 16\]; uint8 \[N, H, W, 3\] was expected"),
        (contents(arr_0=np.zeros((3, 8, 8, 3), np.float32)), r"float32 \[3, 8, 8, 3\]; uint8"),
        (contents(arr_0=np.array([{}], dtype=object)), "uint8 .* was expected"),
        (contents(mu=np.array(["a"])), "mu is of the type <U1; float32 or float64 was expected"),
        (contents(mu=np.zeros(6, np.float16)), "mu is of the type float16; float32 or float64"),
        (contents(sigma=np.eye(6, dtype=int)), "sigma is of the type int64; float32 or float64"),
        (contents(sigma_s=np.eye(4) + 0j), "sigma_s is of the type complex128; float32 or float64"),
        (contents(mu=np.zeros(0), sigma=np.zeros((0, 0))), r"mu \[0\] and sigma \[0, 0\] do not fit"),
        (contents(sigma=np.triu(np.ones((6, 6)))), "sigma is no covariance: it is not symmetric, entries .* differ by 1"),
        (contents(sigma_s=np.diag([1.0, 1.0, 1.0, -0.01])), "sigma_s is no covariance: its eigenvalues are -0.01 to 1"),
        (contents(sigma=np.zeros((6, 6))), "sigma is no covariance: its eigenvalues are 0 to 0"),
        (contents(sigma=np.diag([1, 1, 1, 1, 1, np.inf])), "mu or sigma has values that are not finite"),
    ],
)
def test_another_layout_is_refused_in_one_line(tmp_path, arrays, message):
    path = write(tmp_path / "reference.npz", arrays)
    with pytest.raises(DataError, match=message) as error:
        ReferenceFile(path, None)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_rounding_makes_of_a_covariance_is_accepted(tmp_path):
    """Of fewer images than features, computed and stored in float32: singular, so a little indefinite, and a little asymmetric."""
    few = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    sigma = np.cov(few, rowvar=False, dtype=np.float32)
    sigma[3, 4] *= 1 + 1e-6
    values = np.linalg.eigvalsh(sigma)
    assert values[0] < 0 and sigma.dtype == np.float32 and not np.array_equal(sigma, sigma.T), "or this test shows nothing"
    path = write(tmp_path / "reference.npz", contents(mu=few.mean(axis=0), sigma=sigma))
    assert np.array_equal(ReferenceFile(path, None).gaussian.covariance_DD, sigma.astype(np.float64))


def test_damage_anywhere_is_a_line_or_does_not_matter(tmp_path):
    """A bit of each of many places is turned over: what is read is the file's, or a line says that it is damaged."""
    path = write(tmp_path / "reference.npz", contents())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    arrays, lines = contents(), []
    starts = [whole.index(name.encode() + b".npy") for name in arrays]
    for place in [start + offset for start in starts for offset in rng.integers(-30, 140, 12)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = ReferenceFile(path, None)
            images = torch.cat(list(found.batches(range(COUNT))))
        except DataError as error:
            lines.append(str(error))
        else:
            assert np.array_equal(found.gaussian.covariance_DD, arrays["sigma"])
            assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), arrays["arr_0"])
    assert len(lines) > 30 and not any("\n" in line for line in lines)


def test_absent_and_damaged_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.npz is missing; put the reference there, or use \{kind: data\}"):
        ReferenceFile(tmp_path / "nowhere.npz", None)
    path = write(tmp_path / "reference.npz", contents())
    with pytest.raises(DataError, match=rf"sha256: .*{path.name} has {sha256_file(path)}; take the file that was meant"):
        ReferenceFile(path, "0" * 64)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"junk", np.lib.format.MAGIC_PREFIX + b"\x01\x00"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="not a reference of the ADM evaluator, or damaged") as error:
            ReferenceFile(path, None)
        assert "\n" not in str(error.value)
    flipped = bytearray(whole)
    flipped[whole.index(b"arr_0.npy") + 9 + 200] ^= 1  # a pixel
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="arr_0: Bad CRC-32"):
        list(ReferenceFile(path, None).batches(range(COUNT)))


def test_stages_compare_with_the_file(digits, make_job, store, target, tmp_path, monkeypatch):
    """Moments are the file's, neighbours its images, the floor held-out images of the store; records name it by its checksum."""
    monkeypatch.setattr(extractor_stage, "KEPT_IMAGES", 23)  # held-out images: as many as are generated
    extractor = load_extractor("efficientnet-lite0", tmp_path)
    seen = extractor.features([torch.from_numpy(contents()["arr_0"]).permute(0, 3, 1, 2)])
    arrays = contents(features=1280, spatial=343)
    path = write(tmp_path / "reference.npz", arrays)
    section = digits.evaluate.model_copy(
        update={"extractor": "efficientnet-lite0", "reference": FileReference(kind="file", path=str(path), sha256=None)}
    )
    experiment = digits.model_copy(update={"evaluate": section})
    made = make_job(experiment, "extractor", tmp_path, {"data": store})
    extractor_stage.run(made)
    real = Real.load(made.out)
    torch.testing.assert_close(real.kept_ND, seen.features_ND, rtol=1e-4, atol=1e-4)
    assert real.kept_labels_N is None and real.held_out.images == 23
    inputs = {"data": store, "extractor": made.out, "train/mup_s0": target}
    sampled = make_job(experiment, "sample/mup_s0", tmp_path, inputs)
    sample_stage.run(sampled)
    job = make_job(experiment, "evaluate/mup_s0", tmp_path, {**inputs, "sample/mup_s0": sampled.out})
    stage.run(job)
    records = {record["metric"]: record for record in json.loads((job.out / "metrics.json").read_text())["records"]}
    described = {"kind": "file", "file": "reference.npz", "sha256": sha256_file(path), "n": None, "kept": COUNT}
    assert records["frechet_distance"]["reference"] == described
    assert records["recall"]["reference_images"] == COUNT
    shift_D = Gaussian.of(real.held_out.features_ND.numpy()).mean_D - arrays["mu"]
    assert records["frechet_distance"]["matched"]["floor"] > shift_D @ shift_D
    small = section.model_copy(update={"reference": section.reference.model_copy(update={"path": str(tmp_path / "small.npz")})})
    write(tmp_path / "small.npz", contents(features=64))
    other = make_job(digits.model_copy(update={"evaluate": small}), "extractor", tmp_path / "small", {"data": store})
    with pytest.raises(DataError, match=r"small\.npz: mu has 64 features, efficientnet-lite0 has 1280; take the extractor"):
        extractor_stage.run(other)
