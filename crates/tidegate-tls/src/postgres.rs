//! Addresses of PostgreSQL servers, and connections to them.

use tidegate_core::config::Tls;
use tokio_postgres::{Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Wrong, client, mode::mode, trusting};

/// Where a server is, and whether it is spoken to over TLS.
#[derive(Debug, Clone)]
pub struct Address {
    /// How to connect.
    pub config: Config,
    /// Whether the connection must be safe.
    pub is_safe: bool,
}

/// Connects over TLS where the address asks for it.
pub type Connector = MakeRustlsConnect;

impl Address {
    /// Reads an address: a URL, or the keys of libpq. An error does not repeat it.
    ///
    /// `sslmode=require` and `verify-full` are the same: the server must prove its name. Without one of them the connection
    /// is a plain one.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let (text, is_safe) = mode(text)?;
        let mut config: Config = text.parse().map_err(|_| {
            "is no address of a PostgreSQL database such as postgres://user:password@host:5432/database".to_owned()
        })?;
        if config.get_hosts().is_empty() {
            return Err("names no host".to_owned());
        }
        config.ssl_mode(if is_safe { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, is_safe })
    }

    /// Returns what connects to it.
    ///
    /// # Errors
    ///
    /// As [`client`]; also when there are settings for TLS and the address does not ask for it.
    pub fn connector(&self, tls: &Tls) -> Result<Connector, Wrong> {
        if self.is_safe {
            return Ok(MakeRustlsConnect::new(client(tls)?));
        }
        if !tls.is_unset() {
            let what = "is for a connection over TLS: put sslmode=verify-full into the address".to_owned();
            return Err(Wrong { key: if tls.ca.is_some() { "ca" } else { "cert" }, what });
        }
        // It trusts nobody and is never asked.
        Ok(MakeRustlsConnect::new(trusting(rustls::RootCertStore::empty(), tls)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_it_is_safe() {
        let safe = |text: &str| Address::read(text).map(|address| address.is_safe);
        for plain in
            ["postgres://h/d", "postgres://h/d?sslmode=disable", "host=h sslmode=prefer", "host=h user=sslmode"]
        {
            assert_eq!(safe(plain), Ok(false), "{plain}");
        }
        for asked in [
            "postgres://h/d?sslmode=require",
            "postgres://h/d?sslmode=verify-full&connect_timeout=3",
            "host=h sslmode = 'verify-full' user=u",
        ] {
            assert_eq!(safe(asked), Ok(true), "{asked}");
        }
        let read = Address::read("host=h sslmode = 'verify-full' user=u").unwrap();
        assert_eq!((read.config.get_user(), read.config.get_ssl_mode()), (Some("u"), SslMode::Require));
        for (wrong, why) in [
            ("postgres://h/d?sslmode=verify-ca", "use verify-full"),
            ("postgres://h/d?sslmode=yes", "one of disable"),
            ("postgres://u:hunter2@", "names no host"),
            ("postgres://h:hunter2/d", "is no address"),
        ] {
            let said = safe(wrong).unwrap_err();
            assert!(said.contains(why) && !said.contains("hunter2"), "{wrong}: {said}");
        }
    }

    #[test]
    fn settings_for_tls_are_not_overlooked() {
        let tls = Tls { key: Some(tidegate_core::config::Secret::new("x")), ..Tls::default() };
        let plain = Address::read("postgres://h/d").unwrap();
        let wrong = plain.connector(&tls).map(drop).unwrap_err().to_string();
        assert!(wrong.contains("sslmode=verify-full"), "{wrong}");
    }
}
