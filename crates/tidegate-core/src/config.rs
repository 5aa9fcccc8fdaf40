//! One loader for every YAML document: typed, with every mistake named by line, path and the nearest valid key.
//!
//! A document is read into a tree that knows the line of every key; the type reads itself from that tree, so that an
//! error always has a place. A part that is wrong is noted, taken out, and the rest is read again: one look shows all
//! mistakes. Then the type's own [`Check`] looks at the relations between fields.
//!
//! References, `${env:NAME}` and `${file:PATH}`, are resolved through an [`Environment`]; this crate opens no file and
//! reads no variable itself. `$${` writes a literal `${`. A [`Secret`] can only be given by reference.
//!
//! **Invariant:** the value of a reference never gets into an error.

mod by_type;
mod check;
mod decode;
mod error;
mod file_text;
mod load;
mod page;
mod quantity;
mod reference;
mod secret;
mod switch;
#[cfg(test)]
mod tests;
mod tls;
mod tree;

pub use self::{
    by_type::{ByType, read_by_type},
    check::{Check, Spot},
    error::{ConfigError, Errors, Place, Step, nearest},
    file_text::FileText,
    load::load,
    page::{limits_page, settings_page},
    quantity::{Bytes, RateText, Time},
    reference::{Environment, NoReferences},
    secret::Secret,
    switch::Switch,
    tls::Tls,
};
