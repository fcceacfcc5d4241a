"""One site's encryption and the key holder's sum: ours, NVFlare's CKKS parameter set as the peer, and masking for comparison.

The peer is TenSEAL's CKKS with the parameters of NVFlare's homomorphic filters (degree 8192, primes 60, 40, 40, scale 2^40).
CPU seconds are of this process; the key holder's share is adding and decrypting the uploads of all sites.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from salus.privacy.contribution import Contribution, Shape
from salus.privacy.encryption.messages import Box
from salus.privacy.encryption.packing import SLOTS, choose_packing
from salus.privacy.encryption.scheme import Encryptor, KeyPair
from salus.privacy.prg import KEY_BYTES, Mask, add_masks
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.keys import public_of
from salus.simulations.benchmarks.environment import describe_machine, versions

PEER_DEGREE, PEER_PRIMES, PEER_SCALE = 8192, [60, 40, 40], 2.0**40
MEASURED_CHUNKS = 24  # ciphertexts per measurement; costs are per ciphertext and add up


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _ours(parameters: int, sites: int, chunks: int) -> dict[str, Any]:
    packing = choose_packing(sites, 1.0)
    pair = KeyPair()
    encryptor = Encryptor(pair.public_key)
    box = Box(bytes(32), 1, os.urandom(32), public_of(os.urandom(32)))
    whole = packing.chunks(parameters)
    length = min(parameters, chunks * packing.per_chunk)
    measured = packing.chunks(length)
    rng = np.random.default_rng(0)
    reach = 2**packing.fraction_bits
    words = rng.integers(-reach, reach, size=length).astype(np.uint32)
    slots = [packing.pack(words[i : i + packing.per_chunk]) for i in range(0, length, packing.per_chunk)]
    packed = _cpu(lambda: [packing.pack(words[i : i + packing.per_chunk]) for i in range(0, length, packing.per_chunk)])
    ciphertexts: list[bytes] = []
    encrypted = _cpu(lambda: ciphertexts.extend(encryptor.encrypt(part) for part in slots))
    sealed: list[bytes] = []
    boxed = _cpu(lambda: sealed.extend(box.seal(i, data) for i, data in enumerate(ciphertexts)))
    sums: list[np.ndarray] = []
    summed = _cpu(
        lambda: sums.extend(
            pair.decrypt_sum([(site, data) for site in range(1, sites + 1)]) for data in ciphertexts[:4]
        )
    )
    first = packing.unpack(sums[0], sites, min(length, packing.per_chunk))
    exact = bool(np.array_equal(first, words[: len(first)].view(np.int32).astype(np.int64) * sites))
    scale = whole / measured
    return {
        "ours_bytes_per_param": round(sum(map(len, sealed)) / length, 3),
        "ours_site_cpu_s": round((packed + encrypted + boxed) * scale, 4),
        "ours_encrypt_and_serialise_cpu_s": round(encrypted * scale, 4),
        "ours_pack_cpu_s": round(packed * scale, 4),
        "ours_seal_cpu_s": round(boxed * scale, 4),
        "ours_add_and_decrypt_cpu_s": round(summed * whole / min(4, measured), 4),
        "ours_value_bits": packing.value_bits,
        "ours_fields": packing.fields,
        "exact": exact,
    }


def _peer(parameters: int, chunks: int) -> dict[str, Any]:
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, PEER_DEGREE, coeff_mod_bit_sizes=PEER_PRIMES)
    context.global_scale = PEER_SCALE
    slots = PEER_DEGREE // 2
    values = np.random.default_rng(0).normal(size=slots).tolist()
    found: list[bytes] = []
    seconds = _cpu(lambda: found.extend(tenseal.ckks_vector(context, values).serialize() for _ in range(chunks)))
    decrypted = _cpu(lambda: [tenseal.ckks_vector_from(context, data).decrypt() for data in found[:4]])
    whole = -(-parameters // slots)
    return {
        "peer_bytes_per_param": round(len(found[0]) / slots, 3),
        "peer_site_cpu_s": round(seconds * whole / chunks, 4),
        "peer_decrypt_cpu_s": round(decrypted * whole / 4, 4),
    }


def _masking(parameters: int, sites: int) -> dict[str, Any]:
    shape = Shape(parameters, 1, 1.0)
    update = np.random.default_rng(0).normal(size=parameters).astype(np.float32) / np.float32(parameters**0.5)
    contribution = Contribution(update, 1.0, np.zeros(1))
    masks = [Mask(os.urandom(KEY_BYTES)) for _ in range(sites)]

    def work() -> None:
        add_masks(encode(contribution, shape, FixedPoint(20), os.urandom), masks)

    work()
    return {"masking_bytes_per_param": 4.0, "masking_site_cpu_s": round(_cpu(work), 4)}


def run(*, quick: bool = False, parameters: int = 2**20, sites: int = 16) -> dict[str, Any]:
    """Return bytes per parameter and CPU seconds for a vector of this length, as if over this many sites."""
    chunks = 2 if quick else MEASURED_CHUNKS
    ours = _ours(parameters, sites, chunks)
    peer = (
        {"peer_bytes_per_param": None, "peer_site_cpu_s": None, "peer_decrypt_cpu_s": None}
        if quick
        else _peer(parameters, chunks)
    )
    return {
        "benchmark": "encryption",
        "parameters": parameters,
        "sites": sites,
        "slots": SLOTS,
        **ours,
        **peer,
        "peer_over_ours_site_cpu": None if quick else round(peer["peer_site_cpu_s"] / ours["ours_site_cpu_s"], 2),
        **_masking(parameters, sites),
        "floor_site_cpu_s": None,
        "machine": describe_machine(),
        "versions": versions("tenseal"),
    }
