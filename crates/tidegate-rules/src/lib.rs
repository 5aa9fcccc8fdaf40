//! Expressions over events, and JSON Schema: what a configuration may ask of an event before it is kept or handled.
//!
//! An [`Expr`] is written in the [Common Expression Language](https://cel.dev) and looks at a [`Scope`]:
//!
//! ```
//! use tidegate_core::event::{Data, Event};
//! use tidegate_rules::{Expr, Scope};
//!
//! let expr: Expr = r#"type.startsWith("order.") && data.total > 100"#.parse().unwrap();
//! let event = Event::new("1", "/shop", "order.placed").with_data(Data::Json(r#"{"total": 250}"#.into()));
//! assert!(expr.test(&Scope::event(&event)).unwrap());
//! ```
//!
//! What an expression may cost is bounded by `limits.rs` of the core: its length, its depth, and the steps of one run.
//! No type of the libraries underneath is part of a signature here.

mod expr;
mod schema;
mod scope;
mod stages;

pub use expr::{EventExpr, Expr};
pub use schema::Schema;
pub use scope::{EVENT_NAMES, Scope};
pub use stages::{EventMap, Passage, Stage, Stages};
