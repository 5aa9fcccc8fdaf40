//! An authority for one test: it vouches for a server on the loopback address, and for a node.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// An authority with a key of its own; nobody else trusts it.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, both as PEM.
#[derive(Debug)]
pub struct Papers {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Founds one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its own certificate as PEM.
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// Vouches for a server of these names or addresses.
    pub fn server(&self, names: &[&str]) -> Papers {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.vouch(CertificateParams::new(names).expect("names"), ExtendedKeyUsagePurpose::ServerAuth, "server")
    }

    /// Vouches for a client of this name.
    pub fn client(&self, name: &str) -> Papers {
        self.vouch(CertificateParams::default(), ExtendedKeyUsagePurpose::ClientAuth, name)
    }

    /// Puts what a server on the loopback address needs into its folder: `ca.pem`, `server.pem`, `server.key`.
    pub(crate) fn settle(&self, folder: &Path) {
        std::fs::write(folder.join("ca.pem"), self.certificate()).expect("the certificate is written");
        self.server(&["127.0.0.1"]).write(folder, "server");
    }

    fn vouch(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose, name: &str) -> Papers {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Papers { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Papers {
    /// Writes them beside each other as `<name>.pem` and `<name>.key`; the key is for its owner alone.
    pub fn write(&self, folder: &Path, name: &str) {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::write(folder.join(format!("{name}.pem")), &self.certificate).expect("the certificate is written");
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(folder.join(format!("{name}.key")));
        std::io::Write::write_all(&mut file.expect("the key has a file"), self.key.as_bytes())
            .expect("the key is written");
    }
}
