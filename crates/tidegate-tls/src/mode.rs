//! What the address of a PostgreSQL server says of TLS.

const MODE: &str = "sslmode";

/// Tells whether the address of a PostgreSQL server asks for TLS.
///
/// # Errors
///
/// It asks in words that nothing is known of.
pub fn asks_for_tls(address: &str) -> Result<bool, String> {
    mode(address).map(|(_, is_safe)| is_safe)
}

/// Takes the word for TLS out of an address: the library knows fewer of them.
pub(crate) fn mode(text: &str) -> Result<(String, bool), String> {
    let Some(at) = text.rfind(MODE) else { return Ok((text.to_owned(), false)) };
    let after = &text[at + MODE.len()..];
    let Some(value) = after.trim_start().strip_prefix('=') else { return Ok((text.to_owned(), false)) };
    let value = value.trim_start();
    let end = value.find(|c: char| c == '&' || c.is_whitespace()).unwrap_or(value.len());
    let is_safe = match value[..end].trim_matches('\'') {
        "disable" | "allow" | "prefer" => false,
        "require" | "verify-full" => true,
        "verify-ca" => return Err("sslmode=verify-ca lets a server have any name: use verify-full".to_owned()),
        _ => return Err("sslmode is one of disable, require and verify-full".to_owned()),
    };
    Ok((format!("{}{MODE}=disable{}", &text[..at], &value[end..]), is_safe))
}
