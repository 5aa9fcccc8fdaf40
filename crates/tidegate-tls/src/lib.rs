//! Whom a node trusts when it connects to a server over TLS, and how it shows who it is.
//!
//! A server must always prove its name: there is no setting that leaves this out. What the files hold is read with the
//! configuration, so that a check finds a wrong one before the node starts.

mod mode;
#[cfg(feature = "postgres")]
pub mod postgres;

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tidegate_core::{
    config::{FileText, Spot, Tls},
    fault::Fault,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::mode::asks_for_tls;

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The key in question.
    pub key: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls.{}: {}", self.key, self.what)
    }
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::invalid(wrong.to_string())
    }
}

fn wrong(key: &'static str, what: impl fmt::Display) -> Wrong {
    Wrong { key, what: what.to_string() }
}

/// Chooses the library that encrypts, for the whole process. May be called as often as one likes.
pub fn install() {
    // Fails when a provider is installed already, which is the same one.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Checks what can be checked without a server. Settings that nothing uses, because the address `asks` for no TLS, are a fault:
/// `such_as` is one that does.
pub fn check(tls: &Tls, asks: bool, such_as: &str, here: &Spot<'_>) {
    here.require(asks || tls.is_unset(), || format!("is for an address such as {such_as}"));
    // Without an authority of its own, what the system trusts is asked when the node connects.
    let own = if tls.ca.is_some() { roots(tls) } else { Ok(RootCertStore::empty()) };
    if let Err(wrong) = own.and_then(|roots| trusting(roots, tls)) {
        here.at(wrong.key).error(wrong.what);
    }
}

/// Returns what a client needs.
///
/// # Errors
///
/// Says which setting is wrong, or that the system trusts nobody.
pub fn client(tls: &Tls) -> Result<ClientConfig, Wrong> {
    trusting(roots(tls)?, tls)
}

fn trusting(roots: RootCertStore, tls: &Tls) -> Result<ClientConfig, Wrong> {
    install();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match (&tls.cert, &tls.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let chain = certificates("cert", cert)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|_| wrong("key", "holds no private key in PEM"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong("cert", error))
        }
        (Some(_), None) => Err(wrong("cert", "needs its private key: give it as key")),
        (None, Some(_)) => Err(wrong("key", "needs its certificate: name it by cert")),
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, Wrong> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &tls.ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let none = "the system trusts no authority (is the package ca-certificates installed?): name one here";
            return Err(wrong("ca", none));
        }
        return Ok(roots);
    };
    for certificate in certificates("ca", ca)? {
        roots.add(certificate).map_err(|error| wrong("ca", format!("{}: {error}", ca.path)))?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, file: &FileText) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.text.as_bytes()).collect();
    let all = all.map_err(|error| wrong(key, format!("{}: {error}", file.path)))?;
    if all.is_empty() {
        return Err(wrong(key, format!("{} holds no certificate in PEM", file.path)));
    }
    Ok(all)
}

/// Connects to servers.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// As [`client`].
    pub fn new(tls: &Tls) -> Result<Self, Wrong> {
        Ok(Self(Arc::new(client(tls)?).into()))
    }

    /// Makes a connection safe; the server must prove that it is `host`.
    ///
    /// # Errors
    ///
    /// `host` is no name or address, the server does not speak TLS, or is not the one that it should be.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host} is no name of a server")))?;
        self.0.connect(name, stream).await
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::config::Secret;
    use tidegate_testkit::Authority;

    use super::*;

    fn file(path: &str, text: &str) -> Option<FileText> {
        Some(FileText { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (ours, other) = (Authority::new(), Authority::new());
        let papers = ours.client("node");
        let good = Tls {
            ca: file("ca.pem", &ours.certificate()),
            cert: file("node.pem", &papers.certificate),
            key: Some(Secret::new(&papers.key)),
        };
        assert_eq!(client(&good).map(drop), Ok(()));
        let of = |change: fn(&mut Tls, &Authority)| {
            let mut tls = good.clone();
            change(&mut tls, &other);
            client(&tls).map(drop).unwrap_err().to_string()
        };
        assert_eq!(of(|tls, _| tls.key = None), "tls.cert: needs its private key: give it as key");
        assert_eq!(of(|tls, _| tls.cert = None), "tls.key: needs its certificate: name it by cert");
        assert_eq!(of(|tls, _| tls.ca = file("x.pem", "no")), "tls.ca: x.pem holds no certificate in PEM");
        assert_eq!(of(|tls, _| tls.cert = file("y.pem", "")), "tls.cert: y.pem holds no certificate in PEM");
        assert_eq!(of(|tls, _| tls.key = Some(Secret::new("hunter2"))), "tls.key: holds no private key in PEM");
        let foreign = of(|tls, other| tls.key = Some(Secret::new(&other.client("node").key)));
        assert!(foreign.starts_with("tls.cert: ") && foreign.contains("keys may not be consistent"), "{foreign}");
    }
}
