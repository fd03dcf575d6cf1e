"""A signature of the certificate with the user's own key: Ed25519 (RFC 8032), detached, raw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from monai_plan.utils import read_given, require_private

__all__ = ["SIGNATURE_SUFFIX", "load_signing_key", "verify_signature"]

SIGNATURE_SUFFIX = ".sig"
MOST_BYTES = 2**16  # of a key or a signature
ADVICE = 'signatures need cryptography: pip install "monai_plan[sign]"'
MAKE_KEY = (
    "Make a key with: openssl genpkey -algorithm ed25519 -out signing.pem && chmod 600 signing.pem; and its public "
    "half with: openssl pkey -in signing.pem -pubout -out public.pem"
)

serialization, _ = optional_import("cryptography.hazmat.primitives.serialization", descriptor=ADVICE)
ed25519, _ = optional_import("cryptography.hazmat.primitives.asymmetric.ed25519", descriptor=ADVICE)
exceptions, _ = optional_import("cryptography.exceptions", descriptor=ADVICE)


def load_signing_key(path: str | os.PathLike) -> Any:
    """Read the private key that signs a certificate.

    Args:
        path: an Ed25519 private key as PEM (PKCS #8), not encrypted, for its owner alone (mode 0600). It must not lie
            in a folder that is released.

    Returns:
        cryptography's ``Ed25519PrivateKey``; its ``sign(bytes)`` gives 64 bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: other users may read it, or it is no PEM key, encrypted, or a key of another kind.
        ImportError: cryptography is not installed.
    """
    require_private(path)
    content = read_given(Path(path), MOST_BYTES)
    load = serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except TypeError as error:
        raise ValueError(
            f"the key '{path}' is encrypted, and no password is asked for here; give a decrypted copy for your eyes "
            f"alone: openssl pkey -in {path} -out signing.pem && chmod 600 signing.pem"
        ) from error
    except (ValueError, exceptions.UnsupportedAlgorithm, exceptions.InternalError) as error:
        kind = "a public key" if b"PUBLIC KEY" in content else "no PEM file of a private key"
        raise ValueError(f"'{path}' is {kind}; the private Ed25519 key signs. {MAKE_KEY}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"the key '{path}' is a {type(key).__name__}, and an Ed25519 key is needed. {MAKE_KEY}")
    return key


def verify_signature(certificate: str | os.PathLike, public_key: str | os.PathLike) -> None:
    """Check that ``certificate.json`` is, byte for byte, what the owner of the key signed.

    Anybody can do the same without this package, with OpenSSL 3.0 or later, in the certificate's folder::

        openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in certificate.json -sigfile certificate.json.sig

    Args:
        certificate: the signed file; its signature lies beside it, with ``.sig`` added to the name.
        public_key: the signer's Ed25519 public key as PEM, from a source that you trust: not from the release's folder.

    Raises:
        FileNotFoundError: one of the three files is missing.
        ValueError: the file was changed after it was signed, another key signed it, or the public key is none.
        ImportError: cryptography is not installed.
    """
    content = read_given(Path(certificate))
    signature = read_given(Path(f"{os.fspath(certificate)}{SIGNATURE_SUFFIX}"), MOST_BYTES)
    pem = read_given(Path(public_key), MOST_BYTES)
    load = serialization.load_pem_public_key
    try:
        key = load(pem)
    except (ValueError, exceptions.UnsupportedAlgorithm, exceptions.InternalError) as error:
        kind = "a private key, which should never leave its owner" if b"PRIVATE KEY" in pem else "no PEM public key"
        raise ValueError(f"'{public_key}' is {kind}; give the signer's public Ed25519 key. {MAKE_KEY}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError(f"the key '{public_key}' is a {type(key).__name__}, and an Ed25519 key is needed. {MAKE_KEY}")
    try:
        key.verify(signature, content)
    except exceptions.InvalidSignature as error:
        raise ValueError(
            f"the signature of '{certificate}' is not valid: the file or its signature was changed, or another key "
            "signed it. Do not rely on it; ask the signer for both files and the right public key"
        ) from error
