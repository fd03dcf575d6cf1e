"""Keys of the right and of every wrong kind."""

import shutil
import subprocess

import pytest
from audit_records import passing_record

from monai_plan.report import load_signing_key, verify_signature, write_certificate

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
asymmetric = pytest.importorskip("cryptography.hazmat.primitives.asymmetric")
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402


def key_files(folder, key=None, password=None, name="signing"):
    key = key or ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(pem, pkcs8, lock))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(tmp_path):
    private, public = key_files(tmp_path)
    return write_certificate(passing_record(), tmp_path / "out", signing_key=private), public


def test_round_trip(signed):
    files, public = signed
    assert list(files)[-1] == "certificate.json.sig" and len(files["certificate.json.sig"].read_bytes()) == 64
    verify_signature(files["certificate.json"], public)
    assert "openssl pkeyutl -verify" in files["certificate.html"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["certificate.json", "certificate.json.sig"])
def test_one_bit_is_noticed(signed, name):
    files, public = signed
    content = bytearray(files[name].read_bytes())
    content[40] ^= 1
    files[name].write_bytes(content)
    with pytest.raises(ValueError, match="not valid"):
        verify_signature(files["certificate.json"], public)


def test_openssl_agrees(signed):
    openssl = shutil.which("openssl")
    if openssl is None or b"OpenSSL 3" not in subprocess.run([openssl, "version"], capture_output=True).stdout:
        pytest.skip("needs OpenSSL 3")
    files, public = signed
    command = [
        "pkeyutl",
        "-verify",
        "-pubin",
        "-rawin",
        "-in",
        "certificate.json",
        "-sigfile",
        "certificate.json.sig",
        "-inkey",
    ]
    folder = files["certificate.json"].parent
    assert subprocess.run([openssl, *command, str(public)], cwd=folder, capture_output=True).returncode == 0
    files["certificate.json"].write_text("{}")
    assert subprocess.run([openssl, *command, str(public)], cwd=folder, capture_output=True).returncode != 0


def test_an_old_signature_never_stays_beside_a_new_certificate(signed):
    files, _ = signed
    write_certificate(passing_record(), files["certificate.json"].parent)
    assert not files["certificate.json.sig"].exists()


def test_another_signer_is_noticed(signed, tmp_path):
    files, _ = signed
    other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(ValueError, match="another key signed it"):
        verify_signature(files["certificate.json"], key_files(tmp_path, other, name="other")[1])


def test_keys_that_cannot_sign(tmp_path):
    curve, curve_public = key_files(tmp_path, ec.generate_private_key(ec.SECP256R1()), name="curve")
    locked, _ = key_files(tmp_path, password=b"secret", name="locked")
    _, public = key_files(tmp_path)
    public.chmod(0o600)
    text = tmp_path / "text.pem"
    text.write_text("no key")
    text.chmod(0o600)
    for path, message in (
        (curve, "an Ed25519 key is needed"),
        (locked, "is encrypted"),
        (public, "is a public key"),
        (text, "no PEM file of a private key"),
    ):
        with pytest.raises(ValueError, match=message):
            load_signing_key(path)
    locked.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        load_signing_key(locked)
    with pytest.raises(FileNotFoundError):
        write_certificate(passing_record(), tmp_path / "out", signing_key=tmp_path / "nowhere.pem")
    assert not (tmp_path / "out").exists()


def test_keys_that_cannot_verify(signed, tmp_path):
    files, public = signed
    private = tmp_path / "signing.pem"
    _, curve = key_files(tmp_path, ec.generate_private_key(ec.SECP256R1()), name="curve")
    for path, message in (
        (private, "should never leave its owner"),
        (curve, "an Ed25519 key is needed"),
        (files["model_card.md"], "no PEM public key"),
    ):
        with pytest.raises(ValueError, match=message):
            verify_signature(files["certificate.json"], path)
    files["certificate.json.sig"].unlink()
    with pytest.raises(FileNotFoundError):
        verify_signature(files["certificate.json"], public)
