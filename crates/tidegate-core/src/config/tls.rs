//! Settings of connections over TLS. What they mean is up to whoever connects: core opens no file and no socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FileText, Secret};

/// Whom the node trusts when it connects to a server over TLS, and how it shows who it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// File (PEM) with the certificates of the authorities that may vouch for the server; relative to the directory of this
    /// configuration. Absent = those that the system trusts.
    pub ca: Option<FileText>,
    /// File (PEM) with the certificate that the node shows to a server that asks for one, and those between it and its
    /// authority.
    pub cert: Option<FileText>,
    /// Private key (PEM) of that certificate, as a reference such as `${file:/etc/tidegate/node.key}`.
    pub key: Option<Secret>,
}

impl Tls {
    /// Tells whether nothing was set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}
