//! Signatures of the Standard Webhooks specification, version `v1`: HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Starts a secret whose rest is base64.
const ENCODED: &str = "whsec_";

/// Signs requests with one secret.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

impl Signer {
    /// Makes a signer from `whsec_<base64>` or from a secret used as it stands; the error says what is wrong with it.
    pub(super) fn new(secret: &str) -> Result<Self, &'static str> {
        let key = match secret.strip_prefix(ENCODED) {
            Some(encoded) => base64::engine::general_purpose::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new()
                    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            )
            .decode(encoded)
            .map_err(|_| "what follows \"whsec_\" in the secret is not base64")?,
            None => secret.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err("the secret is empty");
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| "the secret cannot be used as a key")
    }

    /// Returns the value of the header `webhook-signature`; `sent_at` is in seconds since 1970.
    pub(super) fn sign(&self, id: &str, sent_at: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(id.as_bytes());
        mac.update(format!(".{sent_at}.").as_bytes());
        mac.update(body);
        let mut header = String::from("v1,");
        base64::engine::general_purpose::STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const EXPECT: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn vector_of_the_specification() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(signer.sign(ID, 1_614_265_330, BODY), EXPECT);
        for (id, at, body) in [("msg_x", 1_614_265_330, BODY), (ID, 1_614_265_331, BODY), (ID, 1_614_265_330, b"{}")] {
            assert_ne!(signer.sign(id, at, body), EXPECT);
        }
    }

    /// Second vector, made with Python's `hmac` and `base64`.
    #[test]
    fn a_secret_without_prefix_is_used_as_it_stands() {
        let signer = Signer::new("s3cret").unwrap();
        assert_eq!(signer.sign("id", 1, b"body"), "v1,ViLlVX336dLcH/BSOHK6MYx0K1jKrBJemE+svzICvB0=");
    }

    #[test]
    fn secrets_are_checked_and_never_shown() {
        for bad in ["", "whsec_", "whsec_?"] {
            assert!(Signer::new(bad).is_err(), "{bad:?}");
        }
        let unpadded = Signer::new("whsec_c2VjcmV0MTI").unwrap();
        assert_eq!(unpadded.sign("a", 1, b""), Signer::new("whsec_c2VjcmV0MTI=").unwrap().sign("a", 1, b""));
        assert_eq!(format!("{unpadded:?}"), "Signer(***)");
    }
}
